"""Dormand and Prince's adaptive method of order 5(4), for a whole batch at once.

Step sizes follow from the root mean square of the estimated errors over the batch, so an image
depends slightly on its company; that is why this method runs alone, outside the engine. Control of
the steps, the choice of the first one and the value within the last one are those of torchdiffeq's
``dopri5``, which SiT samples with (Hairer, Nørsett, Wanner, "Solving ordinary differential
equations I", II.4 and II.5; Shampine 1986 for the middle of a step).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmem_shared.errors import OutOfRangeError

Slope = Callable[[Tensor, float], Tensor]
"""State and time to the derivative of the state by time."""

_ORDER = 5
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ROWS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Fifth-order weights less those of the embedded method of fourth order.
_ERROR = (
    35 / 384 - 1951 / 21600,
    0.0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    -2187 / 6784 + 12231 / 42400,
    11 / 84 - 649 / 6300,
    -1 / 60,
)
_MIDDLE = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
_SAFETY, _LARGEST_GROWTH, _SMALLEST_GROWTH = 0.9, 10.0, 0.2


@dataclass(frozen=True, slots=True)
class _Step:
    """One step: its end, what the error was relative to the tolerance, and its seven slopes."""

    start: Tensor
    end: Tensor
    error: float
    slopes: Sequence[Tensor]
    length: float

    def at(self, share: float) -> Tensor:
        """Return the state within the step, by the quartic through its ends and middle."""
        h, first, last = self.length, self.slopes[0], self.slopes[-1]
        middle = self.start + h * _sum(_MIDDLE, self.slopes)
        quartic = 2 * h * (last - first) - 8 * (self.start + self.end) + 16 * middle
        cubic = h * (5 * first - 3 * last) + 18 * self.start + 14 * self.end - 32 * middle
        square = h * (last - 4 * first) - 11 * self.start - 5 * self.end + 16 * middle
        inner = h * first + share * (square + share * (cubic + share * quartic))
        return self.start + share * inner


def root_mean_square(x: Tensor) -> float:
    """Measure errors relative to their tolerance, over the whole batch."""
    return x.square().mean().sqrt().item()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What error a step may make: ``atol + rtol |x|`` in each entry, measured by ``norm``.

    The defaults are SiT's.
    """

    rtol: float = 1e-3
    atol: float = 1e-6
    norm: Callable[[Tensor], float] = root_mean_square


def solve(slope: Slope, x: Tensor, start: float, end: float, tolerance: Tolerance) -> Tensor:
    """Return the solution at ``end`` of dx/dt = slope(x, t) from ``x`` at ``start``.

    The last step usually leads past ``end``, where the slope is then evaluated, too.

    Args:
        slope: Gives tensors in the shape of ``x``.
        x: Any shape.
        start: First time.
        end: Last time, after or before ``start``.
        tolerance: Decides the lengths of the steps.

    Raises:
        OutOfRangeError: The slope is not finite, or no step is small enough.
    """
    sign = math.copysign(1.0, end - start)

    def forward(x: Tensor, t: float) -> Tensor:
        return sign * slope(x, sign * t)

    t, last = sign * start, sign * end
    f = forward(x, t)
    length = _first_length(forward, x, f, t, tolerance)
    while True:
        if not (math.isfinite(length) and t + length > t):
            raise OutOfRangeError(
                f"expected an ODE that steps of finite length solve, found none at t = {sign * t}; "
                "choose a sampler with a fixed grid"
            )
        step = _step(forward, x, f, t, length, tolerance)
        if step.error <= 1:
            if t + length >= last:
                return step.at((last - t) / length)
            x, f, t = step.end, step.slopes[-1], t + length
        length *= _growth(step.error)


def _step(
    slope: Slope, x: Tensor, f: Tensor, t: float, length: float, tolerance: Tolerance
) -> _Step:
    slopes, end = [f], x
    for node, row in zip(_NODES[1:], _ROWS[1:], strict=True):
        end = x + length * _sum(row, slopes)
        slopes.append(slope(end, t + node * length))
    allowed = tolerance.atol + tolerance.rtol * torch.maximum(x.abs(), end.abs())
    error = tolerance.norm(length * _sum(_ERROR, slopes) / allowed)
    return _Step(start=x, end=end, error=error, slopes=slopes, length=length)


def _growth(error: float) -> float:
    """Return the factor from one step's length to the next's; a slope of NaN shortens it."""
    if math.isnan(error):
        return _SMALLEST_GROWTH
    if error == 0:
        return _LARGEST_GROWTH
    least = 1.0 if error < 1 else _SMALLEST_GROWTH
    return min(_LARGEST_GROWTH, max(_SAFETY / error ** (1 / _ORDER), least))


def _first_length(slope: Slope, x: Tensor, f: Tensor, t: float, tolerance: Tolerance) -> float:
    """Choose the first length by the size of the slope and of its change (ibid., II.4)."""
    scale, norm = tolerance.atol + tolerance.rtol * x.abs(), tolerance.norm
    d0, d1 = norm(x / scale), norm(f / scale)
    trial = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    d2 = norm((slope(x + trial * f, t + trial) - f) / scale) / trial
    if d1 <= 1e-15 and d2 <= 1e-15:
        return min(100 * trial, max(1e-6, trial * 1e-3))
    return min(100 * trial, (0.01 / max(d1, d2)) ** (1 / _ORDER))


def _sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * f for w, f in zip(weights, slopes, strict=True) if w]).sum(dim=0)
