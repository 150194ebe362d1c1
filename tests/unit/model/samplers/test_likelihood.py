"""Likelihoods, on data whose density is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmem_model.samplers.dormand_prince import Tolerance
from gmem_model.samplers.likelihood import log_likelihood
from gmem_shared.errors import UnknownSamplerError
from gmem_shared.model_config import Transport
from tests.unit.model.samplers.gaussian import GaussianData

IMAGES = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.5


def signs(k: int) -> Tensor:
    generator = torch.Generator().manual_seed(k)
    return 2.0 * torch.randint(0, 2, IMAGES.shape, generator=generator) - 1


@pytest.mark.parametrize("sampler", ["dopri5", "heun", "rk4"])
@pytest.mark.parametrize(
    "process", [Transport(), Transport(path="vp", prediction="noise")], ids=str
)
def test_density_of_gaussian_data_is_exact(process, sampler) -> None:
    # Of independent entries the divergence is the same along every direction.
    data = GaussianData(process)
    logp, noise = log_likelihood(
        data, IMAGES, process, signs, sampler=sampler, num_steps=60, tolerance=Tolerance(1e-5)
    )
    normal = torch.distributions.Normal(data.mean, data.std)
    expected = normal.log_prob(IMAGES).flatten(1).sum(dim=1)
    torch.testing.assert_close(logp, expected, atol=0.1, rtol=0.01)
    if process.path == "linear":
        torch.testing.assert_close(noise, (IMAGES - data.mean) / data.std, atol=0.02, rtol=0.02)


def test_each_evaluation_has_its_direction() -> None:
    asked: list[int] = []

    def asked_for(k: int) -> Tensor:
        asked.append(k)
        return signs(k)

    process = Transport()
    log_likelihood(GaussianData(process), IMAGES, process, asked_for, sampler="heun", num_steps=4)
    assert asked == [0, 1, 2, 3, 4, 5]


def test_a_sampler_that_cannot_be_reversed_is_refused() -> None:
    process = Transport()
    with pytest.raises(UnknownSamplerError, match=r"dopri5, euler, .*found 'stochastic-heun'"):
        log_likelihood(GaussianData(process), IMAGES, process, signs, sampler="stochastic-heun")
