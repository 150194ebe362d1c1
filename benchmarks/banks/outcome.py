"""What the parts of the benchmark add to its result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.harness.interleave import Spread, order
from benchmarks.harness.report import Claim, Table

T = TypeVar("T")

Seconds = Mapping[str, Sequence[float]]
"""Of each side, one value per repetition."""


@dataclass
class Outcome:
    """Claims, tables and every measurement."""

    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def milliseconds(
        self, title: str, seconds: Seconds, recalls: Mapping[str, float] | None = None
    ) -> None:
        """Add a table with a line per side."""
        rows = [
            [side, str(Spread.of([1000 * s for s in taken])), *([recalls[side]] if recalls else [])]
            for side, taken in seconds.items()
        ]
        self.tables.append(Table(title, ["", "ms", *(["recall"] if recalls else [])], rows))
        self.raw[title] = {"seconds": seconds, "recall": recalls}


def median_seconds(call: Callable[[T], object], arguments: Iterable[T]) -> float:
    """Call once with each argument, in turn; return the median of the times."""
    seconds = []
    for argument in arguments:
        begin = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def call_by_call(
    sides: Mapping[str, Callable[[T], object]],
    arguments: Callable[[int], Sequence[T]],
    repetitions: int,
) -> dict[str, list[float]]:
    """Measure sides of which a call takes less than a time slice: in turn at every call.

    At each call the sides have different arguments, so that none finds what another brought into
    the cache; over a repetition all have the same.

    Args:
        sides: What to call.
        arguments: Those of a repetition, given its number, negative for warm-up.
        repetitions: How often.

    Returns:
        The median of every repetition, per side.
    """
    medians: dict[str, list[float]] = {side: [] for side in sides}
    for repetition in range(-1, repetitions):
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        given = arguments(repetition)
        for number in range(len(given)):
            for place, side in enumerate(order(tuple(sides), number)):
                argument = given[(number + place * len(given) // len(sides)) % len(given)]
                seconds[side].append(median_seconds(sides[side], [argument]))
        for side in sides if repetition >= 0 else ():
            medians[side].append(statistics.median(seconds[side]))
    return medians
