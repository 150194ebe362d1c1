from __future__ import annotations

import heapq
from contextlib import ExitStack

import numpy as np
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


def put_off(gate: Admission, request: str) -> float:
    """Have a request of four images refused by a full server; return the time it is told."""
    with (
        gate.admit(4, 8, "heun", "first"),
        pytest.raises(OverloadedError) as refused,
        gate.admit(4, 8, "heun", request),
    ):
        raise AssertionError("admitted")
    return refused.value.retry_after_seconds or 0.0


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
    # 6.5 of the 8 unfinished images must go first, so that three quarters of the places are taken.
    assert refused.value.retry_after_seconds == 7


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


class Simulation:
    """An engine that makes one image after the other, and clients of four images each."""

    def __init__(self, limit: int, seconds_per_image: float) -> None:
        self.clock = Clock()
        self.gate, _ = admission(limit, self.clock)
        self.seconds_per_image = seconds_per_image
        self.queue: list = []
        self.free_at = 0.0

    def arrive(self, request: object) -> float | None:
        """Return the seconds to wait, ``None`` when admitted."""
        stack = ExitStack()
        try:
            self.gate.gate(request)
            ticket = stack.enter_context(self.gate.admit(4, 10, "ab2", request))
        except OverloadedError as error:
            return error.retry_after_seconds
        for _ in range(4):
            self.free_at = max(self.free_at, self.clock.now) + self.seconds_per_image
            self.queue.append((self.free_at, ticket, stack))
        return None

    def advance(self, now: float) -> None:
        """Finish what is finished by then."""
        while self.queue and self.queue[0][0] <= now:
            self.clock.now, ticket, stack = self.queue.pop(0)
            ticket.finished(10)
            if ticket.images == 0:
                stack.close()
        self.clock.now = now


def play(load: float, seconds: float, *, come_back: bool) -> tuple[list[bool], int, Simulation]:
    """Play an overload; return how the second tries went, and how many images were made in time."""
    rng = np.random.default_rng(0)
    simulation = Simulation(limit=128, seconds_per_image=0.005)
    for _ in range(32):  # the pace is known
        simulation.arrive("warm-up")
    simulation.advance(simulation.clock.now + 3.0)
    start = simulation.clock.now
    arrivals = start + np.sort(rng.uniform(0, seconds, rng.poisson(load * 50 * seconds)))
    events = [(float(moment), number, False) for number, moment in enumerate(arrivals)]
    heapq.heapify(events)
    seconds_tries: list[bool] = []
    made = 0
    while events:
        moment, number, again = heapq.heappop(events)
        simulation.advance(moment)
        wait = simulation.arrive(number)
        if moment < start + seconds:
            made += 4 * (wait is None)
        if again:
            seconds_tries.append(wait is None)
        elif wait is not None and come_back:
            heapq.heappush(events, (moment + wait + rng.uniform(0.001, 0.02), number, True))
    return seconds_tries, made, simulation


@pytest.mark.parametrize("load", [1.5, 4.0, 8.0])
def test_who_comes_back_when_told_finds_room(load) -> None:
    second_tries, _, _ = play(load, 3.0, come_back=True)
    assert len(second_tries) > 20
    assert np.mean(second_tries) >= 0.95


def test_the_engine_has_work_although_nobody_comes_back() -> None:
    _, made, simulation = play(4.0, 20.0, come_back=False)
    assert made >= 0.95 * 20.0 / simulation.seconds_per_image


def test_a_full_server_refuses_newcomers_unseen_until_some_places_are_free() -> None:
    clock = Clock()
    gate, _ = admission(32, clock)
    with gate.admit(32, 8, "heun") as ticket:
        gate.gate("nobody was refused yet")
        with pytest.raises(OverloadedError), gate.admit(4, 8, "heun", "first"):
            raise AssertionError("admitted")
        clock.now += 30.0  # the promise is over
        ticket.finished(16)
        with pytest.raises(OverloadedError) as refused:
            gate.gate("newcomer")
        assert (refused.value.retry_after_seconds or 0) >= 1
        clock.now += 90.0
        ticket.finished(16)
        gate.gate("two of 32 places are free")


def test_who_was_told_to_come_now_passes_the_gate() -> None:
    clock = Clock()
    gate, _ = admission(4, clock)
    wait = put_off(gate, "second")
    with gate.admit(2, 8, "heun", "third"):
        with pytest.raises(OverloadedError):
            gate.gate("second")  # too early
        clock.now += wait
        gate.gate("second")
        with pytest.raises(OverloadedError):
            gate.gate("newcomer")


def test_a_promise_is_kept_once() -> None:
    clock = Clock()
    gate, _ = admission(4, clock)
    wait = put_off(gate, "second")
    clock.now += wait
    with pytest.raises(OverloadedError), gate.admit(4, 8, "heun", "another"):
        raise AssertionError("a newcomer takes the place that was promised")
    with gate.admit(4, 8, "heun", "second"):
        assert gate.images == 4
