"""What is known of a job. A value: every change is a function from one state to the next."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gmem_generator.schemas import Version
from gmem_shared.errors import ConflictError

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Ending = Literal["succeeded", "failed", "cancelled"]


class Job(BaseModel):
    """A job, without its request.

    Attributes:
        owner: Id of the caller who submitted it; nobody else sees it.
        run: Counts from 1, one more at every resumption: parts queued for another run are void.
        finished: Numbers of the parts that are stored.
        offered: Parts below this number were put into the queue in this run, if still missing.
        begun: When the first part of this run was taken, and how many images there were then.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    images: int
    part_images: int
    model: Version
    bank: Version | None
    created: datetime
    status: Status = "queued"
    run: int = 1
    finished: frozenset[int] = frozenset()
    offered: int = 0
    begun: tuple[datetime, int] | None = None
    ended: datetime | None = None
    problem: dict[str, Any] | None = None

    @property
    def parts(self) -> int:
        """Into how many parts it is divided."""
        return -(-self.images // self.part_images)

    @property
    def images_done(self) -> int:
        """Images that are stored."""
        return sum(len(self.images_of(part)) for part in self.finished)

    @property
    def complete(self) -> bool:
        """Whether every part is stored."""
        return len(self.finished) == self.parts

    def images_of(self, part: int) -> range:
        """Return the images of a part."""
        first = part * self.part_images
        return range(first, min(first + self.part_images, self.images))

    def seconds_left(self, now: datetime) -> float | None:
        """Estimate how long it will take from the pace of this run; `None`: nothing to go by."""
        if self.status != "running" or self.begun is None:
            return None
        since, before = self.begun
        made = self.images_done - before
        if made <= 0:
            return None
        return (now - since).total_seconds() * (self.images - self.images_done) / made

    def begin(self, now: datetime) -> Job:
        """Return it as it is when the first part of a run was taken."""
        return self._with(status="running", begun=(now, self.images_done))

    def offer(self) -> tuple[Job, int | None]:
        """Return it with one more part offered, and that part; `None`: none is left."""
        for part in range(self.offered, self.parts):
            if part not in self.finished:
                return self._with(offered=part + 1), part
        return self._with(offered=self.parts), None

    def finish(self, part: int) -> Job:
        """Return it with one more part finished."""
        return self._with(finished=self.finished | {part})

    def end(self, status: Ending, now: datetime, problem: dict[str, Any] | None = None) -> Job:
        """Return it ended."""
        return self._with(status=status, ended=now, problem=problem)

    def resume(self, stored: frozenset[int]) -> Job:
        """Return it in its next run, with these parts finished.

        Raises:
            ConflictError: It has not stopped, or succeeded.
        """
        if self.status not in ("failed", "cancelled"):
            raise ConflictError(
                f"expected a job that failed or was cancelled, found one that is {self.status}"
            )
        cleared = {"begun": None, "ended": None, "problem": None, "offered": 0}
        return self._with(status="queued", run=self.run + 1, finished=stored, **cleared)

    def _with(self, **changes: Any) -> Job:
        return self.model_copy(update=changes)
