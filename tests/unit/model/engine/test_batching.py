"""What each way to batch does with tasks, in a loop that evaluates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmem_model.engine.batching import (
    Batching,
    Continuous,
    Dynamic,
    Grouped,
    OneAtATime,
    batching_of,
)
from gmem_model.engine.pace import Pace
from gmem_model.engine.scheduler import Scheduler
from gmem_model.engine.task import Row, Task
from gmem_shared.settings import EngineSettings

WINDOW_SECONDS = 0.5
EVERY: dict[str, Callable[[int], Batching]] = {
    "continuous": Continuous,
    "grouped": Grouped,
    "dynamic": lambda rows: Dynamic(rows, WINDOW_SECONDS),
    "one_at_a_time": OneAtATime,
}


class Loop:
    """Evaluates once a second, and remembers who was in which evaluation."""

    def __init__(self, batching: Batching) -> None:
        self.scheduler: Scheduler[None] = Scheduler(batching, 1000)
        self.now = 0.0
        self.evaluations: list[list[str]] = []
        self.finished: list[tuple[str, int]] = []
        self.answered: dict[str, int] = {}

    def submit(self, name: str, evaluations: int = 3, rows: int = 1) -> None:
        self.scheduler.submit(Task(name, rows, evaluations, None), self.now)

    def turn(self) -> None:
        self.scheduler.admit(self.now)
        running: list[Row[None]] = self.scheduler.running()
        if running:
            self.evaluations.append(sorted(row.task.id for row in running))
        self.now += 1.0
        for row in self.scheduler.advance(len(running), 1.0):
            self.finished.append((row.task.id, row.position))
            self.answered[row.task.id] = len(self.evaluations)

    def drain(self) -> None:
        while not self.scheduler.idle:
            self.turn()


def test_continuous_rows_join_and_leave_at_every_evaluation() -> None:
    loop = Loop(Continuous(4))
    loop.submit("long", 4)
    loop.turn()
    loop.submit("short", 2)
    loop.drain()
    assert loop.evaluations == [["long"], *[["long", "short"]] * 2, ["long"]]


def test_a_dynamic_batch_waits_for_its_window() -> None:
    loop = Loop(Dynamic(4, WINDOW_SECONDS))
    loop.submit("a")
    assert loop.scheduler.opens_at() == WINDOW_SECONDS
    assert loop.scheduler.admit(WINDOW_SECONDS - 0.1) == []
    assert len(loop.scheduler.admit(WINDOW_SECONDS)) == 1


def test_a_full_dynamic_batch_waits_for_nobody() -> None:
    loop = Loop(Dynamic(2, WINDOW_SECONDS))
    loop.submit("a")
    loop.submit("b")
    assert len(loop.scheduler.admit(0.0)) == 2


def test_a_dynamic_batch_is_padded_and_answers_together() -> None:
    loop = Loop(Dynamic(4, 0.0))
    loop.submit("short", 2)
    loop.submit("long", 5)
    loop.drain()
    assert loop.evaluations == [["long", "short"]] * 5
    assert loop.answered == {"short": 5, "long": 5}


def test_nobody_joins_a_dynamic_batch_that_runs() -> None:
    loop = Loop(Dynamic(4, 0.0))
    loop.submit("first")
    loop.turn()
    loop.submit("second")
    loop.drain()
    assert loop.evaluations == [["first"]] * 3 + [["second"]] * 3


def test_grouped_batches_prefer_like_lengths() -> None:
    loop = Loop(Grouped(2))
    for name, evaluations in {"a": 8, "b": 50, "c": 8}.items():
        loop.submit(name, evaluations)
    loop.turn()
    assert loop.evaluations == [["a", "c"]]


def test_grouped_rows_are_answered_when_they_are_done() -> None:
    loop = Loop(Grouped(2))
    loop.submit("short", 2)
    loop.submit("long", 5)
    loop.drain()
    assert loop.answered == {"short": 2, "long": 5}


def test_one_at_a_time_is_one_request_at_a_time() -> None:
    loop = Loop(OneAtATime(4))
    loop.submit("a", 2, rows=3)
    loop.submit("b", 1)
    loop.drain()
    assert loop.evaluations == [["a"] * 3] * 2 + [["b"]]


@pytest.mark.parametrize("name", EVERY)
@given(
    tasks=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(0, 4)), max_size=9),
    max_rows=st.integers(1, 9),
)
@settings(deadline=None, max_examples=40)
def test_every_row_is_finished_once_and_places_are_bounded(
    name: str, tasks: list[tuple[int, int, int]], max_rows: int
) -> None:
    loop = Loop(EVERY[name](max_rows))
    for number, (rows, evaluations, turns) in enumerate(tasks):
        loop.submit(str(number), evaluations, rows)
        for _ in range(turns):
            loop.turn()
    loop.drain()
    expected = {(str(n), p) for n, (rows, _, _) in enumerate(tasks) for p in range(rows)}
    assert Counter(loop.finished) == Counter(expected)
    assert all(len(running) <= max_rows for running in loop.evaluations)
    assert loop.scheduler.running_rows == loop.scheduler.waiting_rows == 0
    assert loop.scheduler.backlog_seconds() == 0


@pytest.mark.parametrize("name", EVERY)
def test_settings_name_the_batching(name: str) -> None:
    settings = EngineSettings.model_validate({"batching": name, "max_rows": 16})
    batching = batching_of(settings, Pace())
    assert type(batching) is type(EVERY[name](1))
    assert batching.max_rows == 16


def test_only_continuous_batching_stops_at_the_knee() -> None:
    linear = Pace((rows, 0.1 * rows) for rows in (1, 2, 4))
    assert batching_of(EngineSettings(batching="continuous"), linear).max_rows == 1
    assert batching_of(EngineSettings(batching="dynamic"), linear).max_rows == 64
