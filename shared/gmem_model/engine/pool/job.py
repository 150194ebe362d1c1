"""A caller's task while processes make it, perhaps in parts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from gmem_shared.errors import DeadlineExceededError, GmemError, InternalError, OverloadedError
from gmem_shared.types import GeneratedImage, GenerationTask

if TYPE_CHECKING:
    from gmem_model.engine.engine import Listener

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Part:
    """Some rows of a job, made by one process.

    Attributes:
        start, rows: Where they are in the task.
        cost: What one row adds to the backlog of its process.
        left: Images that have not come yet.
        refusals: Why processes had no room for it, by their numbers.
    """

    id: str
    job: Job
    start: int
    rows: int
    cost: int
    left: int = field(init=False)
    refusals: dict[int, OverloadedError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = self.rows

    def task(self, now: float) -> GenerationTask:
        """Return the part as a task of its own, with the deadline as it is now."""
        task, rows = self.job.task, slice(self.start, self.start + self.rows)
        seconds = task.deadline_seconds
        return replace(
            task,
            id=self.id,
            seeds=task.seeds[rows],
            indices=task.indices if self.rows == len(task) else task.indices[rows],
            snippets=None if task.snippets is None else task.snippets[rows],
            labels=None if task.labels is None else task.labels[rows],
            deadline_seconds=None if seconds is None else seconds - (now - self.job.arrived),
        )

    def deliver(self, image: GeneratedImage) -> None:
        """Hand an image over at its place in the whole task."""
        position = self.start + image.position
        self.job.deliver(replace(image, position=position) if self.start else image)


class Job:
    """One task to its listener, whatever its parts go through.

    Parts are delivered by the threads of their processes; a lock keeps the listener's calls in
    order. ``arrived`` is a time of the pool's clock.
    """

    def __init__(self, task: GenerationTask, listener: Listener, arrived: float) -> None:
        self.task = task
        self.arrived = arrived
        self.parts: list[Part] = []
        self.ended = False
        self._listener = listener
        self._delivered = 0
        self._lock = threading.RLock()

    def deliver(self, image: GeneratedImage) -> None:
        """Hand over one image; the last one ends the job."""
        with self._lock:
            if self.ended:
                return
            self._delivered += 1
            try:
                self._listener.image(image)
                if self._delivered == len(self.task):
                    self.ended = True
                    self._listener.done()
            except Exception:  # a listener is foreign code: its defect must not stop other tasks
                log.exception("engine.listener.failed", **self._identity)
                self.fail(InternalError(f"the listener of task {self.task.id!r} failed"))

    def fail(self, error: GmemError) -> None:
        """End the job, unless it has ended."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
            if isinstance(error, DeadlineExceededError) and len(self.parts) > 1:
                error = self._deadline_error()
            try:
                self._listener.failed(error)
            except Exception:
                log.exception("engine.listener.failed", **self._identity)

    @property
    def _identity(self) -> dict[str, str | None]:
        return {"task": self.task.id, "request_id": self.task.request_id}

    def _deadline_error(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"the deadline of {self.task.deadline_seconds} s came when {self._delivered} of "
            f"{len(self.task)} images were finished"
        )
