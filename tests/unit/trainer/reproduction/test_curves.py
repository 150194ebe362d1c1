from __future__ import annotations

from dataclasses import replace

import pytest

from gmem_trainer.evaluation import Figures
from gmem_trainer.reproduction.curves import Curve, Point, Spread, cost, gain

STEPS = (50, 100, 200, 400, 800)


def curve(distance_at_100: float, seed: int = 0, encoder_seconds: float = 0.0) -> Curve:
    """A run whose distance halves whenever its steps double; a step takes 0.1 s."""

    def point(step: int) -> Point:
        distance = distance_at_100 * 100 / step
        return Point(step, step / 10, Figures(0.9, distance, 1.0, 0.5, 0.5, 1.0, 0.05))

    return Curve("arm", seed, encoder_seconds, tuple(point(step) for step in STEPS))


@pytest.mark.parametrize("level", [8.0, 5.0, 3.0, 1.0])
def test_cost_interpolates_a_power_law_exactly(level: float) -> None:
    found = cost(curve(8.0, encoder_seconds=5.0), level)
    assert found is not None
    assert found.steps == pytest.approx(800 / level)
    assert found.seconds == pytest.approx(5.0 + 80 / level)


def test_figures_are_those_of_the_first_look_at_that_level() -> None:
    found = cost(curve(8.0), 3.0)
    assert found is not None
    assert found.figures.frechet_features == 2.0


def test_a_level_never_reached_costs_nothing_we_could_name() -> None:
    assert cost(curve(8.0), 0.5) is None
    assert gain([curve(8.0)], [curve(80.0)], 2.0) is None


def test_gain_pairs_runs_by_seed_and_shows_their_spread() -> None:
    dear = [curve(8.0, seed=0), curve(8.0, seed=1)]
    cheap = [curve(4.0, seed=1), curve(2.0, seed=0)]
    found = gain(dear, cheap, 2.0)
    assert found is not None
    assert (found.steps.low, found.steps.high) == (pytest.approx(2), pytest.approx(4))
    assert found.steps.mean == pytest.approx(3)


def test_cost_may_be_that_of_the_distance_in_pixels() -> None:
    assert cost(curve(8.0), 0.5, "frechet_pixels") is None
    found = cost(replace(curve(8.0), points=tuple(map(in_pixels, curve(8.0).points))), 2.0,
        "frechet_pixels")  # fmt: skip
    assert found is not None
    assert found.steps == pytest.approx(400)


def in_pixels(point: Point) -> Point:
    distance = point.figures.frechet_features
    return replace(point, figures=replace(point.figures, frechet_pixels=distance))


def test_the_encoder_counts_as_cost() -> None:
    found = gain([curve(8.0)], [curve(4.0, encoder_seconds=20.0)], 2.0)
    assert found is not None
    assert found.steps.mean == pytest.approx(2)
    assert found.seconds.mean == pytest.approx(40 / 40)


def test_spread_reads_as_mean_and_range() -> None:
    assert str(Spread.of([1.0, 2.0, 3.0])) == "2.00 (1.00 to 3.00)"
