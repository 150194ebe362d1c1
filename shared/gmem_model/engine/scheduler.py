"""Which rows share the next network evaluation: bookkeeping only, no arrays, threads or clocks.

A *task* asks for images; each image is a *row* that needs the same number of evaluations. A row
holds a *place* in the running batch from its admission to its last evaluation. Three rules:

1. **Order.** A task waits in *turns*. A turn is served in order of its virtual arrival: the time at
   which it began to wait, plus `AGEING_SECONDS` if the task is of priority ``batch``. Later turns
   arrive later, so every turn is served after a bounded amount of other work: nothing starves.
2. **Quantum.** A turn gives an eighth of the places at most; then the task queues again. Tasks
   up to that size are plain first-come-first-served (the best mean latency); larger ones take
   turns, so that a thousand images never stand between one image and its place.
3. **Share.** One task holds at most seven eighths of the places. Rows admitted together finish
   together, so without this a newcomer would wait for a whole trajectory of a large task.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gmem_shared.errors import ConflictError, OutOfRangeError, OverloadedError
from gmem_shared.types import Priority

AGEING_SECONDS = 5.0
"""A batch task that has waited this much longer than an interactive one goes first."""

_PACE_MEMORY = 0.9
"""Weight of the past in the running mean of seconds per row evaluation."""

P = TypeVar("P")


@dataclass(eq=False, slots=True)
class Task(Generic[P]):
    """A request for ``rows`` images of ``evaluations`` network evaluations each.

    ``deadline`` is a time of the caller's clock. ``payload`` is not looked at. The other fields
    are the scheduler's.
    """

    id: str
    rows: int
    evaluations: int
    payload: P
    priority: Priority = "interactive"
    deadline: float | None = None
    submitted: float = 0.0
    admitted: int = 0
    running: int = 0
    finished: int = 0
    turn: float = 0.0
    turn_places: int = 0


@dataclass(eq=False, slots=True)
class Row(Generic[P]):
    """One image in the running batch; ``evaluation`` counts those behind it."""

    task: Task[P]
    position: int
    admitted: float
    evaluation: int = 0
    running: bool = True


@dataclass(eq=False)
class Scheduler(Generic[P]):
    """Admits rows to at most ``max_rows`` places; see the module for the rules.

    The caller repeats: :meth:`expire`, :meth:`admit`, evaluate ``running``, :meth:`advance`.
    :meth:`submit` and :meth:`cancel` may come at any time between those calls.
    """

    max_rows: int
    max_waiting_rows: int
    running: list[Row[P]] = field(default_factory=list, init=False)
    """Rows in the batch; survivors keep their order, newcomers come last."""
    waiting_rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        eighth = self.max_rows // 8
        self.share = self.max_rows - eighth
        self.quantum = max(1, eighth)
        self._tasks: dict[str, Task[P]] = {}
        self._queues: dict[Priority, OrderedDict[str, Task[P]]] = {
            "interactive": OrderedDict(),
            "batch": OrderedDict(),
        }
        self._waiting_evaluations = 0
        self._next_deadline = math.inf
        self._pace = 0.0

    @property
    def idle(self) -> bool:
        """Whether no task is waiting or running."""
        return not self._tasks

    def tasks(self) -> list[Task[P]]:
        """Return the unfinished tasks, oldest first."""
        return list(self._tasks.values())

    def backlog_seconds(self) -> float:
        """Estimate the time to finish everything accepted; 0 before the first evaluation."""
        left = sum(row.task.evaluations - row.evaluation for row in self.running)
        return (self._waiting_evaluations + left) * self._pace

    def submit(self, task: Task[P], now: float) -> None:
        """Queue a task.

        Raises:
            OutOfRangeError: The task could never fit into the queue.
            ConflictError: An unfinished task has this id.
            OverloadedError: The queue has no room now.
        """
        if not 0 < task.rows <= self.max_waiting_rows:
            raise OutOfRangeError(
                f"expected 1 to {self.max_waiting_rows} images in one task, found {task.rows}; "
                "split the task"
            )
        if task.id in self._tasks:
            raise ConflictError(
                f"task {task.id!r} is still unfinished; expected a new id for a new task"
            )
        if self.waiting_rows + task.rows > self.max_waiting_rows:
            seconds = max(1.0, self.backlog_seconds())
            raise OverloadedError(
                f"{self.waiting_rows} rows wait and at most {self.max_waiting_rows} may; "
                f"try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )
        task.submitted = now
        self._tasks[task.id] = task
        self._queues[task.priority][task.id] = task
        self._begin_turn(task, now)
        self.waiting_rows += task.rows
        self._waiting_evaluations += task.rows * task.evaluations
        if task.deadline is not None:
            self._next_deadline = min(self._next_deadline, task.deadline)

    def cancel(self, task_id: str) -> Task[P] | None:
        """Drop a task by its id and return it; ``None`` when no unfinished task has it."""
        task = self._tasks.get(task_id)
        if task is not None:
            self.drop(task)
        return task

    def drop(self, task: Task[P]) -> None:
        """Forget a task and its rows; nothing happens when it has ended already."""
        if self._tasks.get(task.id) is not task:
            return
        del self._tasks[task.id]
        self._queues[task.priority].pop(task.id, None)
        waiting = task.rows - task.admitted
        self.waiting_rows -= waiting
        self._waiting_evaluations -= waiting * task.evaluations
        for row in self.running:
            row.running = row.task is not task
        self.running = [row for row in self.running if row.running]

    def expire(self, now: float) -> list[Task[P]]:
        """Drop and return the tasks whose deadline has come, waiting or running."""
        if now < self._next_deadline:
            return []
        tasks = self._tasks.values()
        deadlines = {task: task.deadline for task in tasks if task.deadline is not None}
        late = [task for task, deadline in deadlines.items() if deadline <= now]
        for task in late:
            self.drop(task)
            del deadlines[task]
        self._next_deadline = min(deadlines.values(), default=math.inf)
        return late

    def admit(self, now: float) -> list[Row[P]]:
        """Fill the free places and return the newcomers, in the order of their places."""
        joined: list[Row[P]] = []
        while len(self.running) < self.max_rows and (task := self._next()) is not None:
            row = Row(task, position=task.admitted, admitted=now)
            self._take_place(task, now)
            self.running.append(row)
            joined.append(row)
        return joined

    def advance(self, rows: int, seconds: float) -> list[Row[P]]:
        """Count one evaluation for every running row and return the rows that are finished.

        Args:
            rows: Rows that were evaluated; some may have been cancelled meanwhile.
            seconds: Time the evaluation took; the backlog is estimated from it.
        """
        pace = seconds / max(rows, 1)
        self._pace = _PACE_MEMORY * self._pace + (1 - _PACE_MEMORY) * pace if self._pace else pace
        for row in self.running:
            row.evaluation += 1
        done = [row for row in self.running if row.evaluation == row.task.evaluations]
        for row in done:
            self._finish(row)
        if done:
            self.running = [row for row in self.running if row.running]
        return done

    def _next(self) -> Task[P] | None:
        heads = [
            next((task for task in queue.values() if task.running < self.share), None)
            for queue in self._queues.values()
        ]
        return min((task for task in heads if task), key=lambda task: task.turn, default=None)

    def _take_place(self, task: Task[P], now: float) -> None:
        task.admitted += 1
        task.running += 1
        task.turn_places += 1
        self.waiting_rows -= 1
        self._waiting_evaluations -= task.evaluations
        if task.admitted == task.rows:
            del self._queues[task.priority][task.id]
        elif task.turn_places == self.quantum:
            self._queues[task.priority].move_to_end(task.id)
            self._begin_turn(task, now)

    @staticmethod
    def _begin_turn(task: Task[P], now: float) -> None:
        task.turn = now + (AGEING_SECONDS if task.priority == "batch" else 0.0)
        task.turn_places = 0

    def _finish(self, row: Row[P]) -> None:
        row.running = False
        task = row.task
        task.running -= 1
        task.finished += 1
        if task.finished == task.rows:
            del self._tasks[task.id]
