"""Adaptive sampling, on predictions that are known exactly."""

from __future__ import annotations

import pytest
import torch

from gmem_model.samplers import integrate, plan
from gmem_model.samplers.adaptive import dopri5
from gmem_model.samplers.dormand_prince import Tolerance
from gmem_shared.model_config import Transport
from tests.unit.model.samplers.gaussian import GaussianData

FINE = Tolerance(rtol=1e-5, atol=1e-7)
X0 = torch.linspace(-3, 3, 16).view(-1, 1, 1, 1)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_the_ode_is_that_of_the_fixed_grids(path, prediction) -> None:
    # Far enough from the ends of time for a fixed grid to be exact.
    process = Transport(path=path, prediction=prediction, sample_eps=0.05, timestep_shift=0.5)
    data = GaussianData(process)
    samples = dopri5(data, X0, process, FINE)
    assert samples.dtype == torch.float32
    torch.testing.assert_close(
        samples, integrate(plan("rk4", 60, process), data, X0), atol=1e-3, rtol=1e-3
    )


def test_reverse_leads_from_data_back_to_noise() -> None:
    process = Transport(path="gvp")
    data = GaussianData(process)
    samples = dopri5(data, X0, process, FINE)
    back = dopri5(data, samples, process, FINE, reverse=True)
    torch.testing.assert_close(back, X0, atol=1e-3, rtol=1e-3)
