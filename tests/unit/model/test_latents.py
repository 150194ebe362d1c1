import pytest
import torch

from gmem_model.latents import LATENT_SPACES, LatentScaling, latent_space
from gmem_shared.errors import InvalidRequestError


def test_measured_scaling_centres_and_scales_to_the_multiplier() -> None:
    latents = 3 * torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(0)) + 4
    scaled = LatentScaling.measure(latents, multiplier=0.5).to_network(latents)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.full((2,), 0.5))


@pytest.mark.parametrize("name", LATENT_SPACES)
def test_scaling_is_undone_by_its_inverse(name) -> None:
    scaling = LatentScaling.of(LATENT_SPACES[name])
    channels = max(4, scaling.mean.numel())
    latents = torch.randn(2, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scaling.to_network(scaling.to_autoencoder(latents)), latents)


def test_pixels_are_their_own_latents() -> None:
    pixels = torch.rand(1, 3, 2, 2)
    assert torch.equal(LatentScaling.of(LATENT_SPACES["pixels"]).to_autoencoder(pixels), pixels)


def test_a_named_space_takes_measured_statistics() -> None:
    scaling = LatentScaling(torch.arange(32.0).view(1, 32, 1, 1), torch.ones(1, 32, 1, 1))
    space = latent_space("va-vae", scaling=scaling)
    assert torch.equal(LatentScaling.of(space).mean, scaling.mean)
    assert space.autoencoder == LATENT_SPACES["va-vae"].autoencoder


def test_a_scaling_of_other_channels_is_refused() -> None:
    three = LatentScaling(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    with pytest.raises(InvalidRequestError, match="1 or 32 means"):
        latent_space("va-vae", scaling=three)


def test_pixels_take_no_scaling() -> None:
    with pytest.raises(InvalidRequestError, match="pixels cannot be changed so"):
        latent_space("pixels", scaling=LatentScaling(torch.zeros(1), torch.ones(1)))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match=r"sd-vae.*found 'latents'"):
        latent_space("latents")
