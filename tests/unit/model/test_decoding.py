import numpy as np
import torch

from gmem_model.decoding import Decoder
from gmem_shared.model_config import PixelSpace


def test_every_level_survives_the_way_to_the_network_and_back() -> None:
    decode = Decoder(PixelSpace())
    levels = np.arange(256, dtype=np.uint8)
    latents = torch.from_numpy(levels / 127.5 - 1).view(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        np.testing.assert_array_equal(decode(latents.to(dtype)), levels.reshape(1, 16, 16, 1))


def test_images_have_their_channels_last() -> None:
    decode = Decoder(PixelSpace())
    latents = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    images = decode(latents)
    assert images.shape == (2, 4, 5, 3)
    assert images[0, 0, 0].tolist() == [0, 128, 255]
