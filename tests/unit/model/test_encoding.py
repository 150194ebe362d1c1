import pytest
import torch

from gmem_model.encoding import LatentEncoder
from gmem_model.latents import LatentScaling, latent_space
from gmem_shared.errors import InvalidRequestError
from tests.support.autoencoders import TINY, tiny_autoencoder

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


def encoder(name, autoencoder) -> LatentEncoder:
    return LatentEncoder(latent_space(name, autoencoder=TINY), autoencoder)


def test_pixels_are_their_own_latents() -> None:
    encode = LatentEncoder(latent_space("pixels"))
    assert encode.latent_shape((3, 8, 8)) == (3, 8, 8)
    assert encode(IMAGES) is IMAGES


@torch.no_grad()
def test_without_noise_the_latent_is_the_scaled_mean(autoencoder) -> None:
    latents = encoder("sd-vae", autoencoder)(IMAGES)
    torch.testing.assert_close(latents, 0.18215 * autoencoder.encode(IMAGES).mean)


@torch.no_grad()
def test_noise_selects_a_latent_of_the_posterior(autoencoder) -> None:
    encode = encoder("sd-vae", autoencoder)
    assert encode.latent_shape((3, 8, 8)) == (4, 4, 4)
    noise = torch.ones(2, 4, 4, 4)
    posterior = autoencoder.encode(IMAGES)
    expected = 0.18215 * (posterior.mean + posterior.std)
    torch.testing.assert_close(encode(IMAGES, noise), expected)


@torch.no_grad()
def test_edm2_feeds_the_autoencoder_with_images_from_0_to_1(autoencoder) -> None:
    scaling = LatentScaling.of(latent_space("edm2-sd-vae"))
    expected = scaling.to_network(autoencoder.encode((IMAGES + 1) / 2).mean)
    torch.testing.assert_close(encoder("edm2-sd-vae", autoencoder)(IMAGES), expected)


def test_latents_need_their_autoencoder() -> None:
    with pytest.raises(InvalidRequestError, match="expected an autoencoder"):
        LatentEncoder(latent_space("sd-vae"))


@pytest.mark.parametrize("shape", [(3, 9, 8), (3, 8, 9), (1, 8, 8)])
def test_images_that_do_not_fit_are_refused(shape, autoencoder) -> None:
    with pytest.raises(InvalidRequestError, match="divisible by 2"):
        encoder("sd-vae", autoencoder).latent_shape(shape)
