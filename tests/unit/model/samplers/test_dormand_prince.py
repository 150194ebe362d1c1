"""The adaptive solver, against torchdiffeq's."""

from __future__ import annotations

import math

import pytest
import torch
import torchdiffeq
from torch import Tensor

from gmem_model.samplers.dormand_prince import Tolerance, solve
from gmem_shared.errors import OutOfRangeError


class Pendulum:
    """A slope that remembers where it was asked for."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.times.append(t)
        return torch.stack([x[1], -math.cos(3 * t) * torch.sin(x[0])])


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.25, 7.5)])
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-6])
def test_steps_and_values_are_those_of_torchdiffeq(start, end, rtol) -> None:
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = Pendulum(), Pendulum()
    solution = solve(ours, x, start, end, Tolerance(rtol=rtol, atol=1e-9))
    expected = torchdiffeq.odeint(
        lambda t, x: theirs(x, float(t)),
        x,
        torch.tensor([start, end], dtype=torch.float64),
        method="dopri5",
        rtol=rtol,
        atol=1e-9,
    )[-1]
    torch.testing.assert_close(solution, expected, rtol=1e-7, atol=1e-9)
    assert ours.times == pytest.approx(theirs.times, rel=1e-6)


def test_a_norm_decides_what_counts_as_an_error() -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    strict, blind = Pendulum(), Pendulum()
    solve(strict, x, 0.0, 3.0, Tolerance(rtol=1e-8))
    solve(blind, x, 0.0, 3.0, Tolerance(rtol=1e-8, norm=lambda error: 1e-6))
    assert len(blind.times) < len(strict.times)


def test_a_slope_that_is_not_finite_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match="fixed grid"):
        solve(lambda x, t: x * x, torch.ones(1), 0.0, 2.0, Tolerance())  # infinite at 1
    with pytest.raises(OutOfRangeError, match="fixed grid"):
        solve(lambda x, t: x * math.nan, torch.ones(1), 0.0, 1.0, Tolerance())
