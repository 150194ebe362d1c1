import pytest
import torch

from gmem_model.autoencoder import Autoencoder, Posterior
from gmem_shared.model_config import AutoencoderArchitecture
from tests.support.autoencoders import TINY, tiny_autoencoder


@pytest.mark.parametrize("factors", [(1,), (1, 2), (1, 1, 2)])
def test_sides_shrink_by_the_factor_and_come_back(factors) -> None:
    architecture = TINY.model_copy(update={"channel_mult": factors})
    autoencoder = tiny_autoencoder(architecture)
    with torch.no_grad():
        posterior = autoencoder.encode(torch.zeros(1, 3, 16, 8))
        image = autoencoder.decode(posterior.mean)
    factor = architecture.factor
    assert posterior.mean.shape == posterior.std.shape == (1, 4, 16 // factor, 8 // factor)
    assert image.shape == (1, 3, 16, 8)


def test_a_sample_is_the_mean_without_noise_and_one_std_away_with_ones() -> None:
    posterior = Posterior(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]))
    assert torch.equal(posterior.sample(torch.zeros(2)), posterior.mean)
    assert posterior.sample(torch.ones(2)).tolist() == pytest.approx([2.0, 2.0 + 2.718281828])


def test_the_spread_of_a_latent_is_bounded() -> None:
    wild = Posterior(torch.zeros(2), torch.tensor([-1e9, 1e9]))
    assert wild.std.log().tolist() == pytest.approx([-15, 10])


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [
        (AutoencoderArchitecture(), 84),
        (
            AutoencoderArchitecture(
                channel_mult=(1, 1, 2, 2, 4), attn_resolutions=(16,), z_channels=32
            ),
            70,
        ),
    ],
    ids=["sd-vae", "va-vae"],
)
def test_has_as_many_parameters_as_published(architecture, millions) -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(architecture)
    count = sum(parameter.numel() for parameter in autoencoder.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.5)
