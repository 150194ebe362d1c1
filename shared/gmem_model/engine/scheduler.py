"""Which rows share the next network evaluation: bookkeeping only, no arrays, threads or clocks.

A *task* asks for images; each image is a *row* that needs the same number of evaluations. A row
holds a *place* in the running batch from its admission to its last evaluation. `Queue` says which
task is next, `Batching` which rows may join now. As it is known at admission which evaluation will
be a row's last, an evaluation costs nothing per row here: only rows that come or go do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Generic

from gmem_model.engine.batching import Batching
from gmem_model.engine.pace import Pace
from gmem_model.engine.queue import Queue
from gmem_model.engine.task import P, Row, Task
from gmem_shared.errors import ConflictError, OutOfRangeError, OverloadedError

_LEAST_QUANTUM = 8


@dataclass(eq=False)
class Scheduler(Generic[P]):
    """Admits rows to the places of a batch.

    The caller repeats: :meth:`expire`, :meth:`admit`, evaluate what runs, :meth:`advance`.
    :meth:`submit` and :meth:`cancel` may come at any time between those calls.

    Attributes:
        batching: Who may join when.
        max_waiting_rows: Rows that may wait for a place.
        pace: Learns how long evaluations take.
        evaluation: How many evaluations there were.
        running_rows: Rows in the batch.
    """

    batching: Batching
    max_waiting_rows: int
    pace: Pace = field(default_factory=Pace)
    evaluation: int = field(default=0, init=False)
    running_rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._tasks: dict[str, Task[P]] = {}
        self.queue: Queue[P] = Queue(max(_LEAST_QUANTUM, self.batching.max_rows // 8))
        self._stopped: list[Row[P]] = []
        self._leaving: defaultdict[int, list[Row[P]]] = defaultdict(list)
        self._evaluations_left = 0
        self._next_deadline = math.inf

    @property
    def idle(self) -> bool:
        """Whether no task is waiting or running."""
        return not self._tasks

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a place."""
        return self.queue.rows

    def tasks(self) -> list[Task[P]]:
        """Return the unfinished tasks, oldest first."""
        return list(self._tasks.values())

    def running(self) -> list[Row[P]]:
        """Return the rows in the batch."""
        return [row for task in self._tasks.values() for row in task.places]

    def opens_at(self) -> float:
        """Return the time from which :meth:`admit` would fill an empty batch."""
        return self.batching.opens_at(self.queue)

    def backlog_seconds(self) -> float:
        """Estimate the time to finish everything accepted; 0 before the first evaluation."""
        return self._seconds(self.queue.evaluations)

    def submit(self, task: Task[P], now: float) -> None:
        """Queue a task.

        Raises:
            OutOfRangeError: The task could never fit into the queue.
            ConflictError: An unfinished task has this id.
            OverloadedError: The queue has no room now, or the task would miss its deadline.
                Says when to try again.
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
        self._check_room(task, now)
        task.submitted = now
        self._tasks[task.id] = task
        self.queue.add(task, now)
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
        self.queue.remove(task)
        for row in task.places:
            row.running = False
            self._stopped.append(row)
            self._evaluations_left -= row.first + row.evaluations - self.evaluation
        self.running_rows -= len(task.places)
        task.places.clear()
        if not self.running_rows:
            self._leaving.clear()

    def stopped(self) -> list[Row[P]]:
        """Return the rows that were dropped while they ran, each once."""
        stopped, self._stopped = self._stopped, []
        return stopped

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
        """Give free places away and return the newcomers, in the order of their admission."""
        if not self.queue.rows or (not self.running_rows and now < self.opens_at()):
            return []
        joined: list[Row[P]] = []
        for task in self.batching.picks(self.queue, self.running_rows):
            position = self.queue.take(task, now)
            row = Row(task, position, now, self.evaluation, task.evaluations)
            task.places.add(row)
            joined.append(row)
        if self.batching.ends_together:
            longest = max((row.evaluations for row in joined), default=0)
            for row in joined:
                row.evaluations = longest
        for row in joined:
            self._leaving[row.first + row.evaluations].append(row)
            self._evaluations_left += row.evaluations
        self.running_rows += len(joined)
        return joined

    def advance(self, rows: int, seconds: float) -> list[Row[P]]:
        """Count one evaluation for every running row and return the rows that are finished.

        Args:
            rows: Rows that were evaluated; some may have been cancelled meanwhile.
            seconds: Time the evaluation took.
        """
        if rows:
            self.pace.observe(rows, seconds)
        self.evaluation += 1
        self._evaluations_left -= self.running_rows
        done = [row for row in self._leaving.pop(self.evaluation, ()) if row.running]
        for row in done:
            self._finish(row)
        return done

    def _check_room(self, task: Task[P], now: float) -> None:
        if self.queue.rows + task.rows > self.max_waiting_rows:
            seconds = max(1.0, self.backlog_seconds())
            raise OverloadedError(
                f"{self.queue.rows} rows wait and at most {self.max_waiting_rows} may; "
                f"try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )
        late = self._seconds_late(task, now)
        if late > 0:
            raise OverloadedError(
                f"expected to finish within the deadline, but {self.queue.rows} rows wait and this "
                f"would end {late:.1f} s late; try again in as long, or with a later deadline",
                retry_after_seconds=max(1.0, late),
            )

    def _seconds_late(self, task: Task[P], now: float) -> float:
        """Estimate by how much a task would miss its deadline for what waits before it.

        Of each task that waits, one turn goes before it, and in the end what runs now.
        """
        if task.deadline is None or not self.queue.rows:
            return 0.0
        rounds = math.ceil(task.rows / self.batching.share)
        own = rounds * task.evaluations * self.pace.seconds(self.batching.max_rows)
        if now + self._seconds(self.queue.evaluations) + own <= task.deadline:
            return 0.0
        return now + self._seconds(self.queue.turn_evaluations()) + own - task.deadline

    def _seconds(self, evaluations: float) -> float:
        """Estimate the time to finish what runs, and so many evaluations of rows more."""
        rows = self.batching.max_rows
        return (self._evaluations_left + evaluations) / rows * self.pace.seconds(rows)

    def _finish(self, row: Row[P]) -> None:
        row.running = False
        task = row.task
        task.places.discard(row)
        self.running_rows -= 1
        task.finished += 1
        if task.finished == task.rows:
            del self._tasks[task.id]
