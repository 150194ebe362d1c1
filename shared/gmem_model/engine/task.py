"""What the scheduler moves about: tasks, and the rows of those that run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gmem_shared.types import Priority

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
    finished: int = 0
    turn: float = 0.0
    turn_places: int = 0
    places: set[Row[P]] = field(default_factory=set)

    @property
    def running(self) -> int:
        """Number of rows in the running batch."""
        return len(self.places)


@dataclass(eq=False, slots=True)
class Row(Generic[P]):
    """One image in the running batch.

    Attributes:
        position: Its number within the task.
        admitted: When it got its place.
        first: The number of its first evaluation, among all of the scheduler.
        evaluations: How many it takes part in: its task's, or more where a batch ends together.
        running: False once it has left.
    """

    task: Task[P]
    position: int
    admitted: float
    first: int
    evaluations: int
    running: bool = True
