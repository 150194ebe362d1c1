"""Comparison of sides on a machine that is never quiet: in turn, and ratio by ratio.

Whatever else the machine does falls on all sides alike when they are measured right after one
another, in an order that alternates. Ratios are taken within a repetition, so a slow minute cancels
out; their median and their range are what a benchmark reports.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise one value per repetition."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Write three significant digits: ``0.212 (0.198 … 0.230)``."""
        return f"{self.median:.3g} ({self.lowest:.3g} … {self.highest:.3g})"


def order(sides: Sequence[K], repetition: int) -> list[K]:
    """Return the order of a repetition: forward, then backward, in turn."""
    return list(sides) if repetition % 2 == 0 else list(reversed(sides))


def interleaved(
    sides: Mapping[K, Callable[[int], T]], repetitions: int = 5, warm_up: int = 1
) -> dict[K, list[T]]:
    """Measure all sides in every repetition; return one result per repetition and side.

    Args:
        sides: What to measure; called with the number of the repetition, negative for warm-up.
        repetitions: How often.
        warm_up: Repetitions before these, whose results are dropped.
    """
    results: dict[K, list[T]] = {side: [] for side in sides}
    for repetition in range(-warm_up, repetitions):
        for side in order(tuple(sides), repetition):
            result = sides[side](repetition)
            if repetition >= 0:
                results[side].append(result)
    return results


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each repetition."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]
