from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gmem_generator.admission import Admission
from gmem_generator.metrics import Metrics
from gmem_shared.errors import OverloadedError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(limit: int, clock: Clock | None = None) -> tuple[Admission, CollectorRegistry]:
    registry = CollectorRegistry()
    return Admission(limit, Metrics(registry), clock or Clock()), registry


def test_images_are_counted_until_finished_or_given_up() -> None:
    gate, registry = admission(10)
    with gate.admit(4, steps=8, kind="heun") as ticket:
        ticket.finished(16)
        assert gate.images == 3
        assert registry.get_sample_value("gmem_generator_images_waiting") == 3
    assert gate.images == 0
    assert registry.get_sample_value("gmem_generator_images_waiting") == 0


def test_a_full_queue_refuses_and_names_the_time_its_backlog_needs() -> None:
    clock = Clock()
    gate, registry = admission(10, clock)
    with gate.admit(10, steps=8, kind="heun") as ticket:
        for _ in range(2):  # 16 evaluations a second: two evaluations for each of 8 steps
            clock.now += 1.0
            ticket.finished(16)
        assert gate.backlog_seconds == pytest.approx(8.0)
        assert registry.get_sample_value("gmem_generator_backlog_seconds") == pytest.approx(8.0)
        with pytest.raises(OverloadedError) as refused, gate.admit(6, 8, "heun"):
            raise AssertionError("admitted")
    # 4 of the 8 unfinished images must go first.
    assert refused.value.retry_after_seconds == pytest.approx(4.0)


def test_before_anything_was_measured_a_full_queue_names_one_second() -> None:
    gate, _ = admission(1)
    with (
        gate.admit(1, 8, "heun"),
        pytest.raises(OverloadedError) as refused,
        gate.admit(1, 8, "heun"),
    ):
        raise AssertionError("admitted")
    assert refused.value.retry_after_seconds == 1.0


def test_idle_time_is_no_work() -> None:
    clock = Clock()
    gate, _ = admission(10, clock)
    for _ in range(3):
        clock.now += 1000.0
        with gate.admit(1, steps=10, kind="euler") as ticket:
            clock.now += 2.0
            ticket.finished(10)
    with gate.admit(1, steps=10, kind="euler"):
        assert gate.backlog_seconds == pytest.approx(2.0)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=20))
def test_no_history_leaks_a_place(history) -> None:
    gate, _ = admission(1000)
    for images, finished in history:
        with gate.admit(images, 4, "heun") as ticket:
            for _ in range(min(images, finished)):
                ticket.finished(8)
    assert gate.images == 0
    assert gate.backlog_seconds == 0
