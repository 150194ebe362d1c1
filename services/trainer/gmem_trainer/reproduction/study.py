"""The whole comparison: choose on the validation images, then report on the test images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gmem_trainer.data import digits
from gmem_trainer.evaluation import Figures
from gmem_trainer.presets import digits as digits_preset
from gmem_trainer.reproduction.arms import ARMS, Arm
from gmem_trainer.reproduction.curves import Curve
from gmem_trainer.reproduction.run import measure_training_images, run

CHOICE_SEED = 100
"""Of the runs that choose; no reported run has it."""

Done = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How much is done.

    Attributes:
        seeds: Of the reported runs, the same for every arm.
        learning_rates: What each arm may choose from.
        looks: Numbers of steps at which a network is measured.
        per_class: Images generated of each class for a measurement.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rates: tuple[float, ...] = (3e-3, 6e-3)
    looks: tuple[int, ...] = (50, 75, 100, 150, 200, 250, 300, 400, 500, 650, 800)
    per_class: int = 100

    @property
    def runs(self) -> int:
        """How many networks are trained."""
        return len(ARMS) * (len(self.seeds) + len(self.learning_rates))


@dataclass(frozen=True, slots=True)
class Study:
    """The outcome: the runs of each arm, the learning rate each one chose, and a reference.

    Attributes:
        reference: The training images themselves, measured as generated ones are.
    """

    arms: Mapping[str, tuple[Curve, ...]]
    learning_rates: Mapping[str, float]
    reference: Figures


def study(protocol: Protocol, pool: Executor, done: Done) -> Study:
    """Do all runs in a pool of workers; ``done`` is called after each."""

    def start(arm: Arm, seed: int, part: str) -> Future[Curve]:
        future = pool.submit(_run, arm, seed, part, protocol)
        future.add_done_callback(lambda _: done())
        return future

    trials = {
        start(arm.at(rate), CHOICE_SEED, "validation"): (arm, rate)
        for arm in ARMS
        for rate in protocol.learning_rates
    }
    scores: dict[str, dict[float, float]] = {arm.name: {} for arm in ARMS}
    for trial in as_completed(trials):
        arm, rate = trials[trial]
        scores[arm.name][rate] = _score(trial.result())
    chosen = {name: min(rates, key=rates.__getitem__) for name, rates in scores.items()}
    runs = {
        arm.name: [start(arm.at(chosen[arm.name]), seed, "test") for seed in protocol.seeds]
        for arm in ARMS
    }
    arms = {name: tuple(future.result() for future in futures) for name, futures in runs.items()}
    reference = pool.submit(_reference).result()
    return Study(arms, chosen, reference)


def describe(protocol: Protocol, outcome: Study) -> dict[str, Any]:
    """Say how the numbers came about, as JSON values."""
    return {
        "data": "scikit-learn digits; 70 % train, 10 % validation, 20 % test",
        "chosen_learning_rates": dict(outcome.learning_rates),
        "learning_rates": list(protocol.learning_rates),
        "choice": f"seed {CHOICE_SEED}, least mean log Fréchet distance to the validation images",
        "images_per_look": 10 * protocol.per_class,
    }


def _run(arm: Arm, seed: int, part: str, protocol: Protocol) -> Curve:
    dataset = digits(digits_preset().split_seed)
    arm = arm.until(protocol.looks[-1])
    return run(arm, seed, dataset, getattr(dataset, part), protocol.looks, protocol.per_class)


def _reference() -> Figures:
    return measure_training_images(digits(digits_preset().split_seed))


def _score(curve: Curve) -> float:
    return fmean(math.log(point.figures.frechet_features) for point in curve.points)
