"""Who is next: tasks that wait for places, in turns. Bookkeeping only.

A task waits in *turns*. A turn is served in order of its virtual arrival: the time at which it
began to wait, plus `AGEING_SECONDS` if the task is of priority ``batch``. Later turns arrive
later, so every turn is served after a bounded amount of other work: nothing starves. A turn gives
a *quantum* of places at most; then the task queues again. Tasks up to that size are plain
first-come-first-served (the best mean latency); larger ones take turns, so that a thousand images
never stand between one image and its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Generic, TypeVar

from gmem_model.engine.task import Task
from gmem_shared.types import Priority

AGEING_SECONDS = 5.0
"""A batch task that has waited this much longer than an interactive one goes first."""

P = TypeVar("P")


class Queue(Generic[P]):
    """Tasks with rows that wait.

    Args:
        quantum: Places that one turn gives.
    """

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.rows = 0
        """Rows that wait."""
        self.evaluations = 0
        """Evaluations that these rows need."""
        self._tasks: dict[Priority, OrderedDict[str, Task[P]]] = {
            "interactive": OrderedDict(),
            "batch": OrderedDict(),
        }

    def add(self, task: Task[P], now: float) -> None:
        """Let a task wait for its first turn."""
        self._tasks[task.priority][task.id] = task
        self._count(task, task.rows)
        _begin_turn(task, now)

    def remove(self, task: Task[P]) -> None:
        """Forget what waits of a task."""
        if self._tasks[task.priority].pop(task.id, None) is not None:
            self._count(task, task.admitted - task.rows)

    def head(self, eligible: Callable[[Task[P]], bool] = lambda _: True) -> Task[P] | None:
        """Return the first eligible task in the order of turns."""
        heads = [next(filter(eligible, tasks.values()), None) for tasks in self._tasks.values()]
        return min((task for task in heads if task), key=lambda task: task.turn, default=None)

    def __iter__(self) -> Iterator[Task[P]]:
        """Visit all tasks in the order of their turns."""
        waiting = [task for tasks in self._tasks.values() for task in tasks.values()]
        return iter(sorted(waiting, key=lambda task: task.turn))

    def upcoming(self, rows: int) -> Iterator[tuple[Task[P], int]]:
        """Yield up to so many rows, as task and position, that may be next."""
        tasks = chain.from_iterable(queue.values() for queue in self._tasks.values())
        return islice(((task, p) for task in tasks for p in range(task.admitted, task.rows)), rows)

    def turn_evaluations(self) -> int:
        """Return the evaluations that one turn of every task needs."""
        return sum(min(task.rows - task.admitted, self.quantum) * task.evaluations for task in self)

    def take(self, task: Task[P], now: float) -> int:
        """Give a place to the task's next row and return the row's number."""
        position = task.admitted
        task.admitted += 1
        task.turn_places += 1
        self._count(task, -1)
        if task.admitted == task.rows:
            del self._tasks[task.priority][task.id]
        elif task.turn_places == self.quantum:
            self._tasks[task.priority].move_to_end(task.id)
            _begin_turn(task, now)
        return position

    def _count(self, task: Task[P], rows: int) -> None:
        self.rows += rows
        self.evaluations += rows * task.evaluations


def _begin_turn(task: Task[P], now: float) -> None:
    task.turn = now + (AGEING_SECONDS if task.priority == "batch" else 0.0)
    task.turn_places = 0
