"""How long an evaluation takes, as a line ``seconds = fixed + per_row x rows``.

The line is fitted by least squares of relative errors to what was measured; old measurements fade.
Absolute errors would leave the fit to the longest evaluations. Those are the ones that a busy
machine interrupts, and a line through one of them says that batching does not pay. The line decides
how many rows are worth batching and prices the backlog.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

EFFICIENCY = 0.95
"""Share of the highest throughput at which more rows stop paying."""

_MEMORY = 0.99
"""Weight of a measurement after each later one."""

_SHORTEST = 1e-9
"""Seconds below which a measurement is none; a clock may stand still."""


class Pace:
    """The fitted line; it knows nothing before the first measurement.

    Args:
        measured: Pairs of rows and seconds to begin with.
    """

    def __init__(self, measured: Iterable[tuple[int, float]] = ()) -> None:
        self._count = self._rows = self._squares = self._seconds = self._products = 0.0
        self._line: tuple[float, float] | None = None
        for rows, seconds in measured:
            self.observe(rows, seconds)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one evaluation."""
        weight = max(seconds, _SHORTEST) ** -2
        self._count = _MEMORY * self._count + weight
        self._rows = _MEMORY * self._rows + weight * rows
        self._squares = _MEMORY * self._squares + weight * rows * rows
        self._seconds = _MEMORY * self._seconds + weight * seconds
        self._products = _MEMORY * self._products + weight * rows * seconds
        self._line = None

    def seconds(self, rows: float) -> float:
        """Estimate an evaluation of so many rows; 0 before the first measurement."""
        fixed, per_row = self.line()
        return fixed + per_row * rows

    def knee(self, efficiency: float = EFFICIENCY) -> float:
        """Return how many rows reach this share of the highest throughput; at least 1.

        Rows per second are ``rows / (fixed + per_row rows)``, which tends to ``1 / per_row``. The
        answer is 1 where batching cannot pay, and infinite where every row comes for free.
        """
        fixed, per_row = self.line()
        if per_row <= 0:
            return math.inf
        return max(1.0, efficiency / (1 - efficiency) * fixed / per_row)

    def line(self) -> tuple[float, float]:
        """Return ``fixed`` and ``per_row``; neither is negative."""
        if self._line is None:
            self._line = self._fit()
        return self._line

    def _fit(self) -> tuple[float, float]:
        if not self._count:
            return 0.0, 0.0
        spread = self._count * self._squares - self._rows**2
        if spread <= 1e-6 * self._count * self._squares:  # ever as many rows: each bears its share
            return 0.0, self._seconds / self._rows
        per_row = (self._count * self._products - self._rows * self._seconds) / spread
        fixed = (self._seconds - per_row * self._rows) / self._count
        if per_row < 0:
            return self._seconds / self._count, 0.0
        if fixed < 0:
            return 0.0, self._products / self._squares
        return fixed, per_row
