import math

import pytest
import torch

from gmem_model.paths import (
    coefficients,
    drift,
    drift_variance,
    interpolate,
    score,
)
from gmem_shared.model_config import Interpolant, Transport

TO_NOISE = (Interpolant(path="linear"), Interpolant(path="cosine"))
TO_DATA = (Transport(path="linear"), Transport(path="gvp"), Transport(path="vp"))
PROCESSES = TO_NOISE + TO_DATA
TIMES = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_path_leads_between_data_and_noise(process) -> None:
    ends = coefficients(process, ENDS if process in TO_NOISE else ENDS.flip(0))
    # VP begins with a trace of data: alpha = exp(-5).
    torch.testing.assert_close(ends.alpha, ENDS.flip(0), atol=0.007, rtol=0)
    torch.testing.assert_close(ends.sigma, ENDS, atol=1e-4, rtol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_derivatives_are_the_derivatives(process) -> None:
    t = TIMES.clone().requires_grad_()
    c = coefficients(process, t)
    (d_alpha,) = torch.autograd.grad(c.alpha.sum(), t, retain_graph=True)
    (d_sigma,) = torch.autograd.grad(c.sigma.sum(), t)
    torch.testing.assert_close(c.d_alpha, d_alpha)
    torch.testing.assert_close(c.d_sigma, d_sigma)


PREDICTIONS = ("velocity", "noise", "score")


@pytest.mark.parametrize(
    ("process", "prediction"),
    [(process, "velocity") for process in TO_NOISE]
    + [
        (process.model_copy(update={"prediction": prediction}), prediction)
        for process in TO_DATA
        for prediction in PREDICTIONS
    ],
    ids=str,
)
def test_score_and_drift_are_exact_for_gaussian_data(process, prediction) -> None:
    mean, std = 0.7, 0.4
    x_t = torch.linspace(-3, 3, 25, dtype=torch.float64)
    c = coefficients(process, TIMES)
    centred = x_t - c.alpha * mean
    variance = (c.alpha * std) ** 2 + c.sigma**2
    data = mean + c.alpha * std**2 / variance * centred
    noise = c.sigma / variance * centred
    velocity = c.d_alpha * data + c.d_sigma * noise
    predicted = {"velocity": velocity, "noise": noise, "score": -centred / variance}[prediction]
    for of, expected in ((score, -centred / variance), (drift, velocity)):
        combination = of(process, TIMES)
        torch.testing.assert_close(
            combination.prediction * predicted + combination.state * x_t, expected
        )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("linear", lambda t: (1 - t) / t),
        ("gvp", lambda t: math.pi / 2 / torch.tan(math.pi / 2 * t)),
        ("vp", lambda t: (0.1 + (1 - t) * 19.9) / 2),
    ],
)
def test_drift_variance_is_the_published_one(path, expected) -> None:
    torch.testing.assert_close(drift_variance(Transport(path=path), TIMES), expected(TIMES))


def test_linear_velocity_leads_from_data_to_noise_or_back() -> None:
    x, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.25, 1.0])
    x_t, target = interpolate(Interpolant(), x, eps, t)
    torch.testing.assert_close(target, eps - x)
    torch.testing.assert_close(x_t, torch.stack([x[0], 0.75 * x[1] + 0.25 * eps[1], eps[2]]))
    x_back, target_back = interpolate(Transport(), x, eps, 1 - t)
    torch.testing.assert_close(x_back, x_t)
    torch.testing.assert_close(target_back, -target)
