"""What is known of a job. A value: every change is a function from one state to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from gmem_generator.schemas import Version
from gmem_shared.errors import ConflictError, NewerRecordError

FORMAT = 1
"""Of records; one more when older releases must not go by what a record says."""

_RETRY_AFTER_SECONDS = 2.0

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Ending = Literal["succeeded", "failed", "cancelled"]


class Record(BaseModel):
    """Something kept in Redis, where front ends of several releases may find it.

    Fields that a release does not know it leaves as they are.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int = FORMAT

    @classmethod
    def read(cls, text: bytes | str) -> Self:
        """Read a record.

        Raises:
            NewerRecordError: It is one of a newer release.
        """
        with of_newer_release():
            record = cls.model_validate_json(text)
        if record.format > FORMAT:
            raise _newer(f"format {record.format}")
        return record


class Job(Record):
    """A job, without its request.

    Attributes:
        owner: Id of the caller who submitted it; nobody else sees it.
        run: Counts from 1, one more at every resumption: parts queued for another run are void.
        finished: Numbers of the parts that are stored.
        offered: Parts below this number were put into the queue in this run, if still missing.
        begun: When the first part of this run was taken, and how many images there were then.
    """

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


@contextmanager
def of_newer_release() -> Iterator[None]:
    """Take what cannot be read for something that a newer release wrote.

    Raises:
        NewerRecordError: Instead of `ValidationError`.
    """
    try:
        yield
    except ValidationError as error:
        raise _newer(f"{error.errors()[0]['msg']}: {error.errors()[0]['loc']}"[:200]) from error


def _newer(found: str) -> NewerRecordError:
    return NewerRecordError(
        f"expected a record of format {FORMAT} or less, as this release writes them, found "
        f"{found}; send the request again, a front end of the newer release will take it",
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )
