"""Turns, and what they promise."""

from __future__ import annotations

from gmem_model.engine.queue import AGEING_SECONDS, Queue
from gmem_model.engine.task import Task
from gmem_shared.types import Priority


def task(name: str, rows: int = 1, priority: Priority = "interactive") -> Task[None]:
    return Task(name, rows, 4, None, priority=priority)


def waiting(*tasks: Task[None], quantum: int = 8) -> Queue[None]:
    queue: Queue[None] = Queue(quantum)
    for second, each in enumerate(tasks):
        queue.add(each, float(second))
    return queue


def served(queue: Queue[None], now: float = 100.0) -> list[tuple[str, int]]:
    order = []
    while (head := queue.head()) is not None:
        order.append((head.id, queue.take(head, now)))
        now += 1
    return order


def test_small_tasks_are_served_in_the_order_of_their_arrival() -> None:
    queue = waiting(*(task(name, rows=2) for name in "abc"))
    assert served(queue) == [(name, position) for name in "abc" for position in (0, 1)]


def test_a_turn_gives_a_quantum_of_places_then_others_come_first() -> None:
    queue = waiting(task("huge", rows=5), task("small"), quantum=2)
    names = [name for name, _ in served(queue)]
    assert names == ["huge", "huge", "small", "huge", "huge", "huge"]


def test_interactive_tasks_come_before_batch_tasks_that_wait_less_than_the_ageing() -> None:
    queue: Queue[None] = Queue(8)
    queue.add(task("batch", priority="batch"), 0.0)
    queue.add(task("soon"), AGEING_SECONDS - 1)
    queue.add(task("late"), AGEING_SECONDS + 1)
    assert [name for name, _ in served(queue)] == ["soon", "batch", "late"]


def test_the_head_is_the_first_that_is_eligible() -> None:
    queue = waiting(task("a"), task("b"), task("c", priority="batch"))
    head = queue.head(lambda each: each.id != "a")
    assert head is not None
    assert head.id == "b"
    assert queue.head(lambda _: False) is None


def test_counts_follow_what_waits() -> None:
    first, second = task("a", rows=3), task("b", rows=2)
    queue = waiting(first, second)
    assert (queue.rows, queue.evaluations) == (5, 20)
    queue.take(first, 0.0)
    assert (queue.rows, queue.evaluations) == (4, 16)
    queue.remove(first)
    queue.remove(first)
    assert (queue.rows, queue.evaluations) == (2, 8)
    assert list(queue) == [second]


def test_one_turn_of_every_task_is_all_that_stands_before_a_newcomer() -> None:
    queue = waiting(task("huge", rows=1000), task("small", rows=2), quantum=8)
    assert queue.turn_evaluations() == (8 + 2) * 4


def test_upcoming_rows_are_those_that_have_no_place_yet() -> None:
    first = task("a", rows=3)
    queue = waiting(first, task("b", priority="batch"))
    queue.take(first, 0.0)
    upcoming = [(each.id, position) for each, position in queue.upcoming(10)]
    assert upcoming == [("a", 1), ("a", 2), ("b", 0)]
    assert len(list(queue.upcoming(2))) == 2
    assert queue.rows == 3, "looking at them takes nothing away"
