"""Which waiting rows may join the running batch, and when: continuous batching and its baselines.

Only `Continuous` lets rows join a batch that runs. The others decide for whole requests, as the
servers do that know nothing of evaluations; they are here to be compared with, behind one setting.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain, repeat

from gmem_model.engine.pace import Pace
from gmem_model.engine.queue import Queue
from gmem_model.engine.task import P, Task
from gmem_shared.settings import EngineSettings


class Batching(ABC):
    """One way to fill the places.

    Attributes:
        max_rows: Number of places.
        share: Places that one task may hold.
        ends_together: Whether every row stays, and waits for its answer, until the last is done.
    """

    ends_together = False

    def __init__(self, max_rows: int) -> None:
        self.max_rows = self.share = max_rows

    @abstractmethod
    def picks(self, queue: Queue[P], running: int) -> Iterator[Task[P]]:
        """Yield a task for each place that may be filled now, at most as many as are free.

        The queue gives the place away before the next task is asked for.
        """

    def opens_at(self, queue: Queue[P]) -> float:
        """Return the time from which waiting rows may join an empty batch."""
        return -math.inf


class Continuous(Batching):
    """Rows join at every evaluation.

    One task holds at most seven eighths of the places: rows admitted together finish together, so
    without this a newcomer would wait for a whole trajectory of a large task.
    """

    def __init__(self, max_rows: int) -> None:
        super().__init__(max_rows)
        self.share = max_rows - max_rows // 8

    def picks(self, queue: Queue[P], running: int) -> Iterator[Task[P]]:
        """Yield the head of the queue for every free place."""

        def eligible(task: Task[P]) -> bool:
            return task.running < self.share

        for _ in range(self.max_rows - running):
            task = queue.head(eligible)
            if task is None:
                return
            yield task


class Dynamic(Batching):
    """A batch of whole requests, padded to its longest; the answers go out together.

    What LitServe, BentoML and Triton's dynamic batcher do with a function that makes images. An
    empty batch opens when it would be full, or when the oldest request has waited for the window.
    """

    ends_together = True

    def __init__(self, max_rows: int, window_seconds: float) -> None:
        super().__init__(max_rows)
        self._window_seconds = window_seconds

    def picks(self, queue: Queue[P], running: int) -> Iterator[Task[P]]:
        """Yield the head of the queue for every place, once all are free."""
        if not running:
            for _ in range(min(self.max_rows, queue.rows)):
                yield from filter(None, [queue.head()])

    def opens_at(self, queue: Queue[P]) -> float:
        """Return when the oldest request has waited for the window."""
        if queue.rows >= self.max_rows:
            return -math.inf
        return min((task.submitted for task in queue), default=math.inf) + self._window_seconds


class Grouped(Batching):
    """A batch of whole requests of about equal length, each answered when it is done.

    The best we know to do without joining a running batch: the head of the queue and whoever needs
    as many evaluations first, then whoever needs nearly as many.
    """

    def picks(self, queue: Queue[P], running: int) -> Iterator[Task[P]]:
        """Yield the tasks most like the head of the queue, once all places are free."""
        head = queue.head()
        if running or head is None:
            return
        alike = sorted(queue, key=lambda task: abs(task.evaluations - head.evaluations))
        rows = chain.from_iterable(repeat(task, task.rows - task.admitted) for task in alike)
        yield from (task for task, _ in zip(rows, range(self.max_rows), strict=False))


class OneAtATime(Batching):
    """One request after the other."""

    def picks(self, queue: Queue[P], running: int) -> Iterator[Task[P]]:
        """Yield the head of the queue for its own rows, once all places are free."""
        head = queue.head()
        if not running and head is not None:
            yield from repeat(head, min(self.max_rows, head.rows - head.admitted))


def batching_of(settings: EngineSettings, pace: Pace) -> Batching:
    """Return the batching that the settings name.

    Continuous batching takes no more rows than pay by this pace: beyond, a row only waits for the
    others.
    """
    match settings.batching:
        case "continuous":
            return Continuous(int(min(settings.max_rows, pace.knee())))
        case "grouped":
            return Grouped(settings.max_rows)
        case "dynamic":
            return Dynamic(settings.max_rows, settings.batch_window_ms / 1000)
        case "one_at_a_time":
            return OneAtATime(settings.max_rows)
