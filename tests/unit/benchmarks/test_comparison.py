from __future__ import annotations

import pytest

from benchmarks.harness.comparison import Comparison, Load
from benchmarks.harness.workload import MIXED_IMAGES, UNIFORM, Mix, evaluations


@pytest.fixture
def comparison() -> Comparison:
    load = Load(UNIFORM, rate=40.0, share=0.8, reference="old")
    return Comparison(load, {"old": [[0.1, 0.1], [0.2, 0.2]], "new": [[0.05, 0.05], [0.04, 0.04]]})


def test_percentiles_are_compared_within_a_repetition(comparison: Comparison) -> None:
    assert comparison.of("old", "p50") == pytest.approx([100.0, 200.0])
    assert comparison.ratios("new", "old", "p99") == pytest.approx([0.5, 0.2])


def test_a_table_shows_medians_and_names_the_load(comparison: Comparison) -> None:
    table = comparison.table()
    assert table.title.startswith("25 steps, poisson, 80% of the capacity of old (40 requests/s)")
    name, *medians = table.rows[1]
    assert (name, medians) == ("new", pytest.approx([45.0] * 4))


def test_a_distribution_rises_over_all_repetitions(comparison: Comparison) -> None:
    latencies, shares = comparison.plot().series["old"]
    assert latencies == sorted(latencies)
    assert (latencies[0], latencies[-1]) == pytest.approx((100.0, 200.0))
    assert shares == sorted(shares)


def test_a_mix_is_drawn_from_its_own_choices_and_the_same_by_the_same_seed() -> None:
    requests = MIXED_IMAGES.requests(200, seed=3)
    assert requests == MIXED_IMAGES.requests(200, seed=3)
    assert requests != MIXED_IMAGES.requests(200, seed=4)
    assert {request["num_steps"] for request in requests} == set(MIXED_IMAGES.steps)
    assert {request["num_images"] for request in requests} == set(MIXED_IMAGES.images)


def test_work_is_counted_in_network_evaluations() -> None:
    assert evaluations(Mix("m", (8,), (4,)).requests(2, seed=0)) == [32.0, 32.0]
