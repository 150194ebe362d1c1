import numpy as np
import pytest
import torch

from gmem_model.images import quantize, to_uint8
from gmem_shared.model_config import PixelSpace


def test_every_level_survives_the_way_to_the_network_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8)
    latents = torch.from_numpy(levels / 127.5 - 1).view(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        np.testing.assert_array_equal(
            to_uint8(latents.to(dtype), PixelSpace()), levels.reshape(1, 16, 16, 1)
        )


def test_images_have_their_channels_last() -> None:
    latents = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    images = to_uint8(latents, PixelSpace())
    assert images.shape == (2, 4, 5, 3)
    assert images[0, 0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("formula", ["rounded", "gmem-v1", "sit", "edm2-latent"])
def test_values_out_of_range_are_clamped(formula) -> None:
    assert quantize(torch.tensor([-7.0, 7.0]), formula).tolist() == [0, 255]
