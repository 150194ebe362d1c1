"""The jobs as their owners see them: submit, look, cancel, resume, fetch."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import structlog

from gmem_generator.answers import version
from gmem_generator.jobs.board import Board, Request
from gmem_generator.jobs.idempotency import Idempotency, Key
from gmem_generator.jobs.record import Job
from gmem_generator.metrics import Metrics
from gmem_generator.pipeline import Pipeline
from gmem_generator.plan import out_of_range
from gmem_generator.quota import Spend
from gmem_generator.resolve import images_of
from gmem_generator.schemas import GenerateRequest
from gmem_shared.errors import ConflictError, NotFoundError
from gmem_shared.settings import JobsSettings
from gmem_shared.store import Results

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""How often a job that is followed is looked at."""


class Office:
    """Every method may raise `NotReadyError`, for Redis may be away.

    Args:
        answer_images: Most images of an answer, and of a job that excludes rows: its draws are
            walked from the beginning for each part.
        clock: The time of day.
    """

    def __init__(
        self,
        board: Board,
        pipeline: Pipeline,
        results: Results,
        idempotency: Idempotency,
        metrics: Metrics,
        settings: JobsSettings,
        *,
        answer_images: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._board = board
        self._pipeline = pipeline
        self._results = results
        self._idempotency = idempotency
        self._metrics = metrics
        self._settings = settings
        self._answer_images = answer_images
        self._clock = clock

    async def submit(self, owner: str, body: Request, key: Key | None, spend: Spend) -> Job:
        """Make a job of a request, or return the one that was made of it.

        Args:
            owner: Who may see it.
            body: The request.
            key: By which a repetition is known.
            spend: Takes the images from the owner's quota, if a job is made.

        Raises:
            GmemError: The request would be refused, or there are too many jobs.
            KeyReusedError: The key came with another request before.
        """
        if key is not None and (known := await self._idempotency.known(key)) and known.job:
            return await self._board.read(known.job, owner)
        self._check_size(body)
        pinned, plan = await self._pipeline.pin(body)
        job = Job(
            id=secrets.token_hex(12),
            owner=owner,
            images=images_of(body),
            part_images=min(self._settings.part_images, self._answer_images),
            model=version(plan.model.version),
            bank=None if plan.bank is None else version(plan.bank),
            created=self._clock(),
        )
        note = None if key is None else self._idempotency.note(key, job=job.id)
        unhurried = pinned.model_copy(update={"priority": "batch", "deadline_ms": None})
        async with spend(job.images) as charge:
            known_text = await self._board.submit(job, unhurried, note)
            if known_text is None:
                charge.keep()
        if key is not None and known_text is not None:
            first = self._idempotency.recall(key, known_text).job
            return await self._board.read(str(first), owner)
        self._metrics.jobs.labels("submitted").inc()
        _log.info("job.submitted", job=job.id, images=job.images, model=str(plan.model.version))
        return job

    async def read(self, job_id: str, owner: str) -> Job:
        """Return a job.

        Raises:
            UnknownJobError: The owner has none of this id.
        """
        return await self._board.read(job_id, owner)

    async def request(self, job: Job) -> Request:
        """Return the pinned request of a job.

        Raises:
            UnknownJobError: It was forgotten.
        """
        return await self._board.request(job.id)

    async def newest(self, owner: str, offset: int, limit: int) -> tuple[list[Job], int]:
        """Return some jobs of an owner, newest first, and how many there are."""
        return await self._board.newest(owner, offset, limit)

    async def cancel(self, job_id: str, owner: str) -> Job:
        """End a job; its parts stop at their next evaluation, on whichever front end.

        Raises:
            UnknownJobError: The owner has none of this id.
        """
        return await self._board.cancel(job_id, owner)

    async def resume(self, job_id: str, owner: str, spend: Spend) -> Job:
        """Go on with a job that failed or was cancelled, from what is stored of it.

        Args:
            job_id: The job.
            owner: Who asks.
            spend: Takes the images that are missing from the owner's quota, if it goes on.

        Raises:
            UnknownJobError: The owner has none of this id.
            ConflictError: It is running, or succeeded.
            OverQuotaError: The owner's quota has no room for what is missing.
        """
        before = await self._board.read(job_id, owner)
        stored = frozenset(await asyncio.to_thread(self._results.parts, job_id))
        missing = before.images - before.resume(stored).images_done
        async with spend(missing) as charge:
            job = await self._board.resume(job_id, owner, stored)
            charge.keep()
        self._metrics.jobs.labels("resumed").inc()
        return job

    async def follow(self, job_id: str, owner: str) -> AsyncIterator[Job]:
        """Yield a job every `LOOK_SECONDS`, for the last time when it has ended.

        Raises:
            UnknownJobError: The owner has none of this id.
        """
        yield (job := await self._board.read(job_id, owner))
        while job.ended is None:
            await asyncio.sleep(LOOK_SECONDS)
            yield (job := await self._board.read(job_id, owner))

    async def link(self, job: Job) -> str | None:
        """Return where to fetch the result of a job, or `None`: `stream` it.

        Raises:
            ConflictError: It has none yet.
            NotFoundError: Its file is gone.
        """
        if job.status != "succeeded":
            raise ConflictError(
                f"expected a job that succeeded, found one that is {job.status}; "
                f"GET /jobs/{job.id} tells how far it is"
            )
        if await self.size(job) is None:
            raise NotFoundError(f"the result of job {job.id} is gone from the store")
        if not self._settings.presigned_links:
            return None
        return await asyncio.to_thread(self._results.link, job.id, self._settings.link_seconds)

    async def size(self, job: Job) -> int | None:
        """Return the size of a result in bytes, if there is one."""
        return await asyncio.to_thread(self._results.size, job.id)

    async def stream(self, job: Job) -> AsyncIterator[bytes]:
        """Yield the result of a job piece by piece."""
        pieces = self._results.read(job.id)
        while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
            yield piece

    def expires(self, job: Job) -> datetime | None:
        """Return when an ended job will be forgotten."""
        keep = timedelta(seconds=self._settings.keep_seconds)
        return None if job.ended is None else job.ended + keep

    def now(self) -> datetime:
        """Return the time of day."""
        return self._clock()

    def _check_size(self, body: Request) -> None:
        excludes = isinstance(body, GenerateRequest) and body.memory and body.memory.exclude
        most = min(self._answer_images, self._settings.max_images)
        most = most if excludes else self._settings.max_images
        if images_of(body) > most:
            raise out_of_range("num_images", most, images_of(body))
