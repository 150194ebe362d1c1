import math

import pytest
import torch

from gmem_model.transport import (
    coefficients,
    interpolate,
    sample_times,
    score_coefficients,
    velocity_loss,
)

PATHS = ("linear", "cosine")
TIMES = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
def test_path_leads_from_data_to_noise(path) -> None:
    ends = coefficients(path, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends.alpha, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(ends.sigma, torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_are_the_derivatives(path) -> None:
    t = TIMES.clone().requires_grad_()
    c = coefficients(path, t)
    (d_alpha,) = torch.autograd.grad(c.alpha.sum(), t)
    (d_sigma,) = torch.autograd.grad(c.sigma.sum(), t)
    torch.testing.assert_close(c.d_alpha, d_alpha)
    torch.testing.assert_close(c.d_sigma, d_sigma)


@pytest.mark.parametrize("path", PATHS)
def test_score_from_velocity_is_exact_for_gaussian_data(path) -> None:
    mean, std = 0.7, 0.4
    x_t = torch.linspace(-3, 3, 25, dtype=torch.float64)
    c = coefficients(path, TIMES)
    centred = x_t - c.alpha * mean
    variance = (c.alpha * std) ** 2 + c.sigma**2
    data = mean + c.alpha * std**2 / variance * centred
    noise = c.sigma / variance * centred
    velocity = c.d_alpha * data + c.d_sigma * noise
    score = score_coefficients(path, TIMES)
    torch.testing.assert_close(score.velocity * velocity + score.state * x_t, -centred / variance)


def test_linear_velocity_is_noise_minus_data() -> None:
    x, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.25, 1.0])
    x_t, target = interpolate("linear", x, eps, t)
    torch.testing.assert_close(target, eps - x)
    torch.testing.assert_close(x_t, torch.stack([x[0], 0.75 * x[1] + 0.25 * eps[1], eps[2]]))


def test_loss_is_a_mean_over_each_row() -> None:
    velocity = torch.zeros(2, 1, 2, 2)
    target = torch.stack([torch.full((1, 2, 2), 2.0), torch.eye(2)[None]])
    assert velocity_loss(velocity, target).tolist() == [4.0, 0.5]


@pytest.mark.parametrize(
    ("distribution", "path", "quantile"),
    [
        ("uniform", "linear", lambda p: p),
        ("lognormal", "linear", lambda p: 1 / (1 + math.exp(-_normal_quantile(p)))),
        ("lognormal", "cosine", lambda p: math.atan(math.exp(_normal_quantile(p))) * 2 / math.pi),
    ],
)
def test_times_follow_their_distribution_and_their_generator(distribution, path, quantile) -> None:
    def draw():
        generator = torch.Generator().manual_seed(5)
        return sample_times(50_000, generator, distribution=distribution, path=path)

    times = draw()
    assert torch.equal(times, draw())
    for p in (0.1, 0.5, 0.9):
        assert times.quantile(p).item() == pytest.approx(quantile(p), abs=0.01)


def _normal_quantile(p: float) -> float:
    return math.sqrt(2) * torch.erfinv(torch.tensor(2 * p - 1)).item()
