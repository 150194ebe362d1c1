from __future__ import annotations

import math

import pytest

from gmem_model.engine.pace import Pace

SMALL_NETWORK = [
    (1, 0.19e-3), (4, 0.36e-3), (8, 0.60e-3), (16, 1.03e-3), (32, 1.95e-3), (64, 3.84e-3),
]  # fmt: skip


def test_a_line_is_found() -> None:
    pace = Pace((rows, 2.0 + 0.5 * rows) for rows in (1, 2, 4, 8))
    assert pace.line() == pytest.approx((2.0, 0.5))
    assert pace.seconds(6) == pytest.approx(5.0)
    assert pace.knee(0.5) == pytest.approx(4.0)


def test_batching_pays_for_a_small_network() -> None:
    assert Pace(SMALL_NETWORK).knee() > 32


def test_one_interrupted_evaluation_does_not_end_batching() -> None:
    interrupted = [*SMALL_NETWORK[:-1], (64, 2 * SMALL_NETWORK[-1][1])]
    assert Pace(interrupted).knee() > 16


def test_batching_does_not_pay_where_every_row_costs_as_much() -> None:
    assert Pace((rows, 0.155 * rows) for rows in (1, 2, 4)).knee() == 1.0
    assert Pace([(1, 0.155)]).knee() == 1.0


def test_nothing_is_known_before_the_first_measurement() -> None:
    assert Pace().seconds(8) == 0.0
    assert Pace().knee() == math.inf


def test_a_clock_that_stands_still_is_no_error() -> None:
    assert Pace([(1, 0.0), (2, 0.0)]).seconds(2) == 0.0
