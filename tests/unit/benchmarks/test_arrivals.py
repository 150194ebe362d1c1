from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.arrivals import bursty, poisson


@pytest.mark.parametrize("process", [poisson, bursty])
def test_arrivals_are_sorted_within_the_run_and_as_many_as_the_rate_says(process) -> None:
    times = process(50.0, 400.0, np.random.default_rng(0))
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 400
    assert len(times) == pytest.approx(50 * 400, rel=0.05)


@pytest.mark.parametrize("process", [poisson, bursty])
def test_the_same_generator_gives_the_same_arrivals(process) -> None:
    first, second = (process(20.0, 10.0, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_counts_vary_as_poisson_says_and_more_in_bursts() -> None:
    def dispersion(process) -> float:
        counts = np.histogram(process(50.0, 400.0, np.random.default_rng(1)), np.arange(401))[0]
        return counts.var() / counts.mean()

    assert dispersion(poisson) == pytest.approx(1.0, abs=0.3)
    assert dispersion(bursty) > 5


def test_no_arrivals_are_no_error() -> None:
    assert len(poisson(0.01, 1.0, np.random.default_rng(0))) == 0
