import numpy as np
import pytest
import torch

from gmem_model.decoding import Decoder, image_shape
from gmem_model.encoding import LatentEncoder
from gmem_model.images import quantize
from gmem_model.latents import latent_space
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import PixelSpace
from tests.support.autoencoders import TINY, latent_config, tiny_autoencoder


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


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


def test_pixels_are_made_by_the_formula_of_their_family() -> None:
    latents = torch.full((1, 1, 1, 1), 0.001)
    assert Decoder(PixelSpace(eight_bit="rounded"))(latents).item() == 128
    assert Decoder(PixelSpace(eight_bit="sit"))(-latents).item() == 127


def test_latents_are_scaled_back_decoded_and_quantized(autoencoder) -> None:
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    images = Decoder(latent_space("sd-vae", autoencoder=TINY), autoencoder)(latents.double())
    with torch.no_grad():
        expected = quantize(autoencoder.decode(latents / 0.18215), "gmem-v1")
    assert images.shape == (2, 8, 8, 3)
    difference = images.astype(int) - expected.permute(0, 2, 3, 1).numpy()
    assert abs(difference).max() <= 1  # a last bit before truncation
    assert images.std() > 1


def test_an_image_has_the_same_bits_in_any_company(autoencoder) -> None:
    decode = Decoder(latent_space("va-vae", autoencoder=TINY), autoencoder)
    latents = 5 * torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = np.concatenate([decode(latent) for latent in latents.split(1)])
    np.testing.assert_array_equal(decode(latents), alone)
    np.testing.assert_array_equal(decode(latents[2:4]), alone[2:4])


def test_what_was_encoded_is_decoded_in_the_same_scale(autoencoder) -> None:
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    for name in ("sd-vae", "edm2-sd-vae"):
        space = latent_space(name, autoencoder=TINY)
        seen: list[torch.Tensor] = []
        handle = autoencoder.decoder.conv_in.register_forward_pre_hook(
            lambda _module, inputs, seen=seen: seen.append(inputs[0])
        )
        with torch.no_grad():
            Decoder(space, autoencoder)(LatentEncoder(space, autoencoder)(images))
            fed = (images + 1) / 2 if name == "edm2-sd-vae" else images
            expected = autoencoder.post_quant_conv(autoencoder.encode(fed).mean)
        handle.remove()
        torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-4)


def test_latents_need_their_autoencoder() -> None:
    with pytest.raises(InvalidRequestError, match="expected an autoencoder"):
        Decoder(latent_space("sd-vae"))


def test_images_are_as_large_as_the_autoencoder_makes_them() -> None:
    assert image_shape(latent_config()) == (8, 8, 3)
