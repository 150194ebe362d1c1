from __future__ import annotations

import pytest

from benchmarks.harness.load import Outcome, latency_ms, throughput


def outcome(ended: float, scheduled: float = 0.0, status: int = 200) -> Outcome:
    return Outcome(0, scheduled, sent=scheduled + 0.5, ended=ended, status=status)


def test_latency_counts_from_the_scheduled_arrival() -> None:
    assert outcome(3.0, scheduled=1.0).latency == 2.0
    assert latency_ms([outcome(3.0, scheduled=1.0)])["p99"] == 2000.0


def test_a_failed_request_spoils_the_latencies() -> None:
    with pytest.raises(AssertionError, match="1 of 2 requests failed"):
        latency_ms([outcome(1.0), outcome(1.0, status=503)])


def test_throughput_counts_images_that_ended_in_the_window() -> None:
    ended = [outcome(0.9), outcome(1.0), outcome(2.9), outcome(2.9, status=429), outcome(3.0)]
    assert throughput(ended, 1.0, 3.0) == 1.0


def test_throughput_weighs_requests_by_what_they_ask_for() -> None:
    ended = [Outcome(number, 0.0, 0.0, 0.5, 200) for number in range(4)]
    assert throughput(ended, 0.0, 1.0, work=[1.0, 10.0]) == 22.0
