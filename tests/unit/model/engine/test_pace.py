"""The fit of an evaluation's time to its rows."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmem_model.engine.pace import Pace

ROWS = (1, 2, 4, 8, 16, 32, 64)


def affine(fixed: float, per_row: float) -> Pace:
    return Pace((rows, fixed + per_row * rows) for rows in ROWS)


def test_nothing_is_known_before_the_first_measurement() -> None:
    assert Pace().line() == (0, 0)
    assert Pace().seconds(64) == 0
    assert Pace().knee() == math.inf


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_an_affine_cost_is_found_exactly(fixed: float, per_row: float) -> None:
    assert affine(fixed, per_row).line() == pytest.approx((fixed, per_row), rel=1e-3, abs=1e-6)


def test_the_knee_is_where_more_rows_gain_less_than_a_twentieth() -> None:
    pace = affine(fixed=0.001, per_row=0.0001)
    knee = pace.knee()
    assert knee / pace.seconds(knee) == pytest.approx(0.95 / 0.0001)


def test_batching_does_not_pay_where_time_is_proportional_to_rows() -> None:
    assert affine(fixed=0.0, per_row=0.15).knee() == 1
    assert affine(fixed=0.005, per_row=0.15).knee() == 1


def test_superlinear_times_are_not_taken_for_a_gain() -> None:
    pace = Pace((rows, 0.1 * rows**1.2) for rows in ROWS)
    assert pace.line()[0] == 0
    assert pace.knee() == 1


def test_any_number_of_rows_pays_where_they_come_for_free() -> None:
    assert affine(fixed=0.02, per_row=0.0).knee() > 1e6
    assert Pace((rows, 0.02 - 1e-5 * rows) for rows in ROWS).line()[1] == 0


def test_one_row_count_alone_prices_rows_by_their_share() -> None:
    pace = Pace([(8, 0.04), (8, 0.04)])
    assert pace.seconds(1) == pytest.approx(0.005)
    assert pace.seconds(64) == pytest.approx(0.32)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 10.0)), max_size=30))
def test_no_measurements_give_a_negative_time_or_a_knee_below_one(
    measured: list[tuple[int, float]],
) -> None:
    pace = Pace(measured)
    fixed, per_row = pace.line()
    assert fixed >= 0
    assert per_row >= 0
    assert pace.knee() >= 1


@given(st.integers(0, 2**32))
def test_noise_moves_the_line_little(seed: int) -> None:
    random, pace = Random(seed), Pace()
    for _ in range(300):
        rows = random.choice(ROWS)
        pace.observe(rows, (0.001 + 0.0001 * rows) * random.uniform(0.95, 1.05))
    assert pace.seconds(32) == pytest.approx(0.0042, rel=0.05)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    pace = affine(fixed=0.001, per_row=0.0001)
    for _ in range(10):
        for rows in ROWS * 20:
            pace.observe(rows, 2 * (0.001 + 0.0001 * rows))
    assert pace.line() == pytest.approx((0.002, 0.0002), rel=0.01)
