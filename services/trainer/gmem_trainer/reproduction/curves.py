"""Learning curves, and what they say about cost at equal quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from gmem_trainer.evaluation import Figures

Quality = Literal["frechet_features", "frechet_pixels"]
"""The distance that says how good images are; less is better."""


@dataclass(frozen=True, slots=True)
class Point:
    """One look at a network in training.

    Attributes:
        step: Optimizer steps so far.
        seconds: CPU seconds of these steps, the encoder's not included.
        figures: What its images are worth.
    """

    step: int
    seconds: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run of one arm.

    Attributes:
        encoder_seconds: CPU seconds spent on the encoder the arm depends on, 0 without one.
        points: In the order of their steps.
    """

    arm: str
    seed: int
    encoder_seconds: float
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to reach a quality; ``figures`` are those of the first look that had it."""

    steps: float
    seconds: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(fmean(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def cost(curve: Curve, level: float, quality: Quality = "frechet_features") -> Cost | None:
    """Return what it took until a distance first fell to ``level``; ``None`` if never.

    Between two looks the logarithm of the distance is taken to fall in proportion to the logarithm
    of the step, as learning curves do.
    """
    for before, after in pairwise(curve.points):
        high, low = (float(getattr(look.figures, quality)) for look in (before, after))
        if high > level >= low:
            share = math.log(high / level) / math.log(high / low)
            steps = before.step * (after.step / before.step) ** share
            way = (steps - before.step) / (after.step - before.step)
            seconds = before.seconds + way * (after.seconds - before.seconds)
            return Cost(steps, curve.encoder_seconds + seconds, after.figures)
    return None


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times cheaper one arm reaches a level than another."""

    steps: Spread
    seconds: Spread


def gain(
    dear: Sequence[Curve],
    cheap: Sequence[Curve],
    level: float,
    quality: Quality = "frechet_features",
) -> Gain | None:
    """Compare two arms seed by seed; ``None`` unless every run of both reached the level."""
    pairs = [
        (cost(a, level, quality), cost(b, level, quality))
        for a in dear
        for b in cheap
        if a.seed == b.seed
    ]
    reached = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not reached or len(reached) < len(pairs):
        return None
    return Gain(
        steps=Spread.of([a.steps / b.steps for a, b in reached]),
        seconds=Spread.of([a.seconds / b.seconds for a, b in reached]),
    )
