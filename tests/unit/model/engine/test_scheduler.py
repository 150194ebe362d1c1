"""The scheduler with a fake clock and no network."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gmem_model.engine.batching import Continuous
from gmem_model.engine.queue import AGEING_SECONDS
from gmem_model.engine.scheduler import Scheduler
from gmem_model.engine.task import Row, Task
from gmem_shared.errors import ConflictError, OutOfRangeError, OverloadedError
from gmem_shared.types import Priority

EVALUATION_SECONDS = 0.01


def task(
    name: str,
    rows: int = 1,
    evaluations: int = 4,
    priority: Priority = "interactive",
    deadline: float | None = None,
) -> Task[None]:
    return Task(name, rows, evaluations, None, priority=priority, deadline=deadline)


class Loop:
    """What the engine does with a scheduler, at a constant pace."""

    def __init__(self, max_rows: int = 8, max_waiting_rows: int = 1000) -> None:
        self.scheduler: Scheduler[None] = Scheduler(Continuous(max_rows), max_waiting_rows)
        self.now = 0.0
        self.admitted: list[tuple[str, int]] = []
        self.finished: list[tuple[str, int]] = []
        self.evaluated: Counter[Row[None]] = Counter()

    def submit(self, *tasks: Task[None]) -> None:
        for each in tasks:
            self.scheduler.submit(each, self.now)

    def turn(self) -> list[Task[None]]:
        late = self.scheduler.expire(self.now)
        joined = self.scheduler.admit(self.now)
        self.admitted += [(row.task.id, row.position) for row in joined]
        running = self.scheduler.running()
        self.now += EVALUATION_SECONDS
        self.evaluated.update(running)
        done = self.scheduler.advance(len(running), EVALUATION_SECONDS)
        self.finished += [(row.task.id, row.position) for row in done]
        return late

    def drain(self, most_turns: int = 10_000) -> int:
        for turns in range(most_turns):
            if self.scheduler.idle:
                return turns
            self.turn()
        raise AssertionError("the scheduler did not finish its work")


def test_every_row_of_a_task_is_finished_once_after_its_evaluations() -> None:
    loop = Loop(max_rows=3)
    loop.submit(task("a", rows=10, evaluations=5))
    loop.drain()
    assert sorted(loop.finished) == [("a", position) for position in range(10)]
    assert set(loop.evaluated.values()) == {5}


def test_small_tasks_are_served_first_come_first_served() -> None:
    loop = Loop(max_rows=2)
    loop.submit(*(task(str(number)) for number in range(10)))
    loop.drain()
    assert [name for name, _ in loop.admitted] == [str(number) for number in range(10)]


def test_a_row_joins_at_the_evaluation_after_one_leaves() -> None:
    loop = Loop(max_rows=1)
    loop.submit(task("a", evaluations=3), task("b", evaluations=2))
    assert loop.drain() == 5


def test_one_image_starts_at_once_beside_a_task_of_a_thousand() -> None:
    loop = Loop(max_rows=8)
    loop.submit(task("huge", rows=1000, evaluations=100))
    loop.turn()
    loop.submit(task("small"))
    loop.turn()
    assert loop.admitted[-1] == ("small", 0)


def test_one_image_waits_for_few_rows_of_several_huge_tasks() -> None:
    loop = Loop(max_rows=16, max_waiting_rows=10_000)
    loop.submit(*(task(f"huge{i}", rows=1000, evaluations=7) for i in range(3)))
    for _ in range(5):
        loop.turn()
    before = len(loop.admitted)
    loop.submit(task("small"))
    while loop.admitted[-1][0] != "small" and ("small", 0) not in loop.admitted:
        loop.turn()
    ahead = loop.admitted.index(("small", 0)) - before
    assert ahead <= 3 * loop.scheduler.queue.quantum


def test_huge_tasks_progress_together() -> None:
    loop = Loop(max_rows=8)
    loop.submit(*(task(name, rows=100) for name in "abcd"))
    while len(loop.finished) < 100:
        loop.turn()
    served = Counter(name for name, _ in loop.finished)
    assert max(served.values()) - min(served.values()) <= 2 * loop.scheduler.batching.share


def test_a_lone_task_fills_all_places_but_the_reserve() -> None:
    loop = Loop(max_rows=64)
    loop.submit(task("huge", rows=1000))
    loop.scheduler.admit(0.0)
    assert loop.scheduler.running_rows == 56


def test_interactive_tasks_pass_batch_tasks() -> None:
    loop = Loop(max_rows=1)
    loop.submit(task("batch", priority="batch"), task("interactive"))
    loop.drain()
    assert [name for name, _ in loop.admitted] == ["interactive", "batch"]


def test_a_batch_task_is_not_starved_by_endless_interactive_ones() -> None:
    loop = Loop(max_rows=2, max_waiting_rows=50)
    loop.submit(task("batch", rows=3, priority="batch"))
    queue_seconds = 50 * 2 * EVALUATION_SECONDS
    for number in count():
        with contextlib.suppress(OverloadedError):
            loop.submit(task(f"i{number}"))  # twice what two places can serve
        loop.turn()
        if ("batch", 2) in loop.finished:
            break
        assert loop.now < 3 * (AGEING_SECONDS + 2 * queue_seconds), "starved"


def test_a_waiting_task_expires_at_its_deadline() -> None:
    loop = Loop(max_rows=1)
    late = task("late", deadline=0.02)
    loop.submit(task("first", evaluations=50), late)
    assert [each for _ in range(3) for each in loop.turn()] == [late]
    assert loop.scheduler.waiting_rows == 0


def test_a_running_task_expires_at_its_deadline_and_frees_its_places() -> None:
    loop = Loop(max_rows=4)
    late = task("late", rows=4, evaluations=50, deadline=0.02)
    loop.submit(late)
    assert [each for _ in range(3) for each in loop.turn()] == [late]
    assert loop.scheduler.idle
    assert loop.scheduler.running() == []


def test_cancelling_frees_the_places_before_the_next_evaluation() -> None:
    loop = Loop(max_rows=2)
    loop.submit(task("a", rows=2, evaluations=50))
    loop.turn()
    loop.submit(task("b", rows=2))
    loop.scheduler.cancel("a")
    loop.turn()
    assert {row.task.id for row in loop.scheduler.running()} == {"b"}


def test_cancelling_twice_or_after_the_end_does_nothing() -> None:
    loop = Loop()
    first = task("a")
    loop.submit(first, task("b"))
    assert loop.scheduler.cancel("a") is first
    assert loop.scheduler.cancel("a") is None
    loop.drain()
    assert loop.scheduler.cancel("b") is None
    assert loop.finished == [("b", 0)]


def test_dropping_an_ended_task_spares_a_newer_one_of_the_same_id() -> None:
    loop = Loop()
    old = task("a")
    loop.submit(old)
    loop.scheduler.drop(old)
    loop.submit(task("a"))
    loop.scheduler.drop(old)
    loop.drain()
    assert loop.finished == [("a", 0)]


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    loop = Loop(max_rows=2, max_waiting_rows=200)
    loop.submit(task("a", rows=200, evaluations=100))
    loop.turn()
    with pytest.raises(OverloadedError) as refusal:
        loop.submit(task("b", rows=20))
    # 200 rows of 100 evaluations, one done, at two rows in 10 ms.
    assert refusal.value.retry_after_seconds == pytest.approx(100, rel=0.02)
    assert loop.scheduler.backlog_seconds() == pytest.approx(100, rel=0.02)


def test_a_task_that_would_miss_its_deadline_is_refused_until_it_would_not() -> None:
    loop = Loop(max_rows=2)
    loop.submit(*(task(str(number), rows=2, evaluations=100) for number in range(10)))
    loop.turn()

    def hasty() -> Task[None]:
        return task("hasty", evaluations=100, deadline=loop.now + 3.0)

    with pytest.raises(OverloadedError, match="within the deadline") as refusal:
        loop.submit(hasty())
    assert refusal.value.retry_after_seconds is not None
    again = loop.now + refusal.value.retry_after_seconds + EVALUATION_SECONDS
    while loop.now < again:
        loop.turn()
    loop.submit(hasty())
    end = loop.now + 3.0
    loop.drain()
    assert ("hasty", 0) in loop.finished
    assert loop.now <= end


def test_a_task_that_would_keep_its_deadline_is_accepted_behind_a_huge_one() -> None:
    loop = Loop(max_rows=8)
    loop.submit(task("huge", rows=900, evaluations=10))
    loop.turn()
    assert loop.scheduler.backlog_seconds() > 10
    loop.submit(task("small", evaluations=10, deadline=loop.now + 1.0))
    loop.drain()
    assert ("small", 0) in loop.finished


def test_nothing_is_refused_for_its_deadline_before_anything_was_measured() -> None:
    loop = Loop()
    loop.submit(task("first", rows=500), task("hasty", deadline=1e-9))


def test_rows_that_were_stopped_are_reported_once() -> None:
    loop = Loop(max_rows=4)
    loop.submit(task("a", rows=6))
    loop.turn()
    running = loop.scheduler.running()
    loop.scheduler.cancel("a")
    assert set(loop.scheduler.stopped()) == set(running)
    assert loop.scheduler.stopped() == []
    assert not any(row.running for row in running)


def test_an_idle_scheduler_keeps_no_task() -> None:
    loop = Loop(max_rows=4)
    names = {f"forgotten-{number}" for number in range(4)}
    loop.submit(*(task(name, rows=3, evaluations=50) for name in sorted(names)))
    loop.turn()
    for name in names:
        loop.scheduler.cancel(name)
    loop.scheduler.stopped()
    loop.evaluated.clear()
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Task and each.id in names]


def test_a_task_that_can_never_fit_is_out_of_range() -> None:
    with pytest.raises(OutOfRangeError, match="split the task"):
        Loop(max_waiting_rows=10).submit(task("a", rows=11))


def test_an_unfinished_id_is_refused() -> None:
    loop = Loop()
    loop.submit(task("a"))
    with pytest.raises(ConflictError, match="'a'"):
        loop.submit(task("a"))


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 9), st.sampled_from(["interactive", "batch"])),
        max_size=12,
    ),
    st.integers(1, 17),
)
@settings(deadline=None, max_examples=60)
def test_no_place_stays_free_while_an_eligible_row_waits(
    sizes: list[tuple[int, int, Priority]], max_rows: int
) -> None:
    loop = Loop(max_rows)
    loop.submit(*(task(str(i), *size) for i, size in enumerate(sizes)))
    while not loop.scheduler.idle:
        loop.turn()
        loop.scheduler.admit(loop.now)
        if loop.scheduler.running_rows < max_rows:
            waiting = [each for each in loop.scheduler.tasks() if each.admitted < each.rows]
            assert all(each.running == loop.scheduler.batching.share for each in waiting)


class SchedulerHistories(RuleBasedStateMachine):
    """Any history of submissions, cancellations, deadlines and evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop(max_rows=5, max_waiting_rows=40)
        self.submitted: dict[str, Task[None]] = {}
        self.ended: set[str] = set()

    @rule(
        rows=st.integers(1, 12),
        evaluations=st.integers(1, 6),
        priority=st.sampled_from(["interactive", "batch"]),
        patience=st.none() | st.floats(0.0, 0.2),
    )
    def submit(
        self, rows: int, evaluations: int, priority: Priority, patience: float | None
    ) -> None:
        name = str(len(self.submitted))
        deadline = None if patience is None else self.loop.now + patience
        new = task(name, rows, evaluations, priority, deadline)
        room = self.loop.scheduler.waiting_rows + rows <= 40
        try:
            self.loop.submit(new)
        except OverloadedError:
            assert not room or deadline is not None
        else:
            assert room
            self.submitted[name] = new

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.submitted)))
        cancelled = self.loop.scheduler.cancel(name)
        assert (cancelled is None) == (name in self.ended)
        self.ended.add(name)

    @rule()
    def turn(self) -> None:
        late = self.loop.turn()
        assert all(each.deadline is not None for each in late)
        self.ended |= {each.id for each in late}
        self.ended |= {name for name, each in self.submitted.items() if each.finished == each.rows}

    @invariant()
    def places_are_bounded(self) -> None:
        assert self.loop.scheduler.running_rows <= 5
        for each in self.submitted.values():
            assert each.running <= self.loop.scheduler.batching.share

    @invariant()
    def counts_agree_with_the_tasks(self) -> None:
        live = [each for name, each in self.submitted.items() if name not in self.ended]
        assert {each.id for each in self.loop.scheduler.tasks()} == {each.id for each in live}
        scheduler = self.loop.scheduler
        assert scheduler.waiting_rows == sum(each.rows - each.admitted for each in live)
        assert scheduler.running_rows == sum(each.running for each in live)

    @invariant()
    def nothing_is_delivered_twice(self) -> None:
        assert len(set(self.loop.finished)) == len(self.loop.finished)

    def teardown(self) -> None:
        scheduler = self.loop.scheduler
        left = sum(each.rows * each.evaluations for each in scheduler.tasks())
        self.loop.drain(most_turns=left + 1)
        assert scheduler.running() == []
        assert scheduler.waiting_rows == 0
        assert scheduler.backlog_seconds() == 0
        for name, each in self.submitted.items():
            if each.finished == each.rows:
                expected = {(name, position) for position in range(each.rows)}
                assert expected <= set(self.loop.finished)
        for row, evaluations in self.loop.evaluated.items():
            if (row.task.id, row.position) in set(self.loop.finished):
                assert evaluations == row.task.evaluations


TestSchedulerHistories = SchedulerHistories.TestCase
TestSchedulerHistories.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
