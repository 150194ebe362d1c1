import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gmem_model.paths import coefficients
from gmem_model.samplers import SAMPLERS, Plan, adams_bashforth, integrate, plan
from gmem_shared.errors import InvalidRequestError, OutOfRangeError, UnknownSamplerError
from gmem_shared.model_config import Interpolant


def growth(x: Tensor, t: float) -> Tensor:
    """dx/dt = 2 t x, so that x(0) = x(1) / e."""
    return 2 * t * x


def error(table: Plan) -> float:
    x0 = torch.ones(1, 1, 1, 1)
    return abs(integrate(table, growth, x0).item() - math.exp(-1))


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_error_falls_with_the_order_of_the_sampler(name, order) -> None:
    coarse, fine = error(plan(name, 64)), error(plan(name, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_adams_bashforth_keeps_its_order_on_an_uneven_grid() -> None:
    def uneven(num_steps: int) -> Plan:
        grid = np.linspace(1.0, 0.0, num_steps + 1) ** 1.5
        return adams_bashforth(grid[:-1], np.diff(grid))

    assert math.log2(error(uneven(64)) / error(uneven(128))) == pytest.approx(2, abs=0.15)


def gaussian_velocity(path, mean: float, std: float):
    """Return the exact velocity field of data distributed as N(mean, std²)."""

    def velocity(x: Tensor, t: float) -> Tensor:
        c = coefficients(Interpolant(path=path), torch.tensor(t, dtype=torch.float64))
        centred = (x - c.alpha * mean) / ((c.alpha * std) ** 2 + c.sigma**2)
        data = mean + c.alpha * std**2 * centred
        return c.d_alpha * data + c.d_sigma * c.sigma * centred

    return velocity


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_distributed_like_the_data(name, path) -> None:
    generator = torch.Generator().manual_seed(0)
    shape, mean, std = (20_000, 1, 1, 1), 0.5, 0.8
    x0 = torch.randn(shape, generator=generator)
    samples = integrate(
        plan(name, 250, Interpolant(path=path)),
        gaussian_velocity(path, mean, std),
        x0,
        lambda _k: torch.randn(shape, generator=generator, dtype=torch.float64),
    )
    assert samples.mean().item() == pytest.approx(mean, abs=0.02)
    assert samples.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    ("name", "evaluations"), [("euler", 10), ("heun", 19), ("ab2", 10), ("euler-maruyama", 10)]
)
def test_evaluations_per_ten_steps(name, evaluations) -> None:
    assert len(plan(name, 10)) == evaluations


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_one_evaluation_at_pure_noise(name) -> None:
    table = plan(name, 1)
    assert table.times.tolist() == [1.0]
    assert table.noise.tolist() == [0.0]
    assert all(np.isfinite(column).all() for column in (table.current, table.velocity))


def test_sde_ends_with_one_step_without_noise() -> None:
    table = plan("euler-maruyama", 250)
    assert table.times[-1] == 0.04
    assert (table.noise[:-1] > 0).all()
    assert table.noise[-1] == 0


def test_unknown_sampler_is_refused_with_the_known_names() -> None:
    with pytest.raises(UnknownSamplerError, match="euler, heun, ab2, euler-maruyama; found 'rk4'"):
        plan("rk4", 8)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_too_few_steps_are_refused(num_steps) -> None:
    with pytest.raises(OutOfRangeError, match="at least 1"):
        plan("euler", num_steps)


def test_stochastic_plan_without_noise_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="noise source"):
        integrate(plan("euler-maruyama", 4), growth, torch.ones(1, 1, 1, 1))
