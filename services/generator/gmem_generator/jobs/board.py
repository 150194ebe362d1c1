"""Every job in Redis. A change of a job happens together with what it does to the queue.

::

    gmem:job:<id>            hash: state (`Job`), changed_by (token of the last change),
                             request (pinned, never changes), bytes (that it counts)
    gmem:jobs:of:<owner>     sorted set: ids by time of submission
    gmem:jobs:bytes          hash: sum of bytes by owner
    gmem:jobs:unfinished     set: ids
    gmem:jobs:kept           sorted set: ids of ended jobs by when they are to be forgotten
    gmem:jobs:stopped        channel: ids of jobs that were cancelled or failed
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from pydantic import TypeAdapter

from gmem_generator.jobs.connection import Client, Connection, Pipeline
from gmem_generator.jobs.queue import ASSEMBLY, Entry, Queue
from gmem_generator.jobs.record import Job, of_newer_release
from gmem_generator.metrics import Metrics
from gmem_generator.schemas import GenerateBody, GenerateRequest, ReplayRequest
from gmem_shared.errors import OverloadedError, OverQuotaError, UnknownJobError
from gmem_shared.settings import JobsSettings

_log = structlog.get_logger(__name__)

Request = GenerateRequest | ReplayRequest

_UNFINISHED = "gmem:jobs:unfinished"
_KEPT = "gmem:jobs:kept"
_BYTES = "gmem:jobs:bytes"
_STOPPED = "gmem:jobs:stopped"
_FULL_SECONDS = 60.0
_SWEEP = 100
_STATE_BYTES, _PART_BYTES = 1024, 8

_REQUEST: TypeAdapter[Request] = TypeAdapter(GenerateBody)


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be remembered for a while, unless something is already."""

    key: str
    text: str
    seconds: int


class Board:
    """The jobs. Every method may raise `NotReadyError`: Redis is away, or keeps a newer record.

    Args:
        metrics: Count the jobs that end, each once, whoever ends it.
        clock: The time of day.
    """

    def __init__(
        self,
        connection: Connection,
        queue: Queue,
        settings: JobsSettings,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._settings = settings
        self._metrics = metrics
        self._clock = clock

    async def submit(self, job: Job, request: Request, note: Note | None = None) -> bytes | None:
        """Write a job down and queue its first parts; when this returns, Redis has it.

        Args:
            job: In its first state.
            request: Pinned.
            note: Written with it; if there is one of its key, nothing is.

        Returns:
            The note that was there.

        Raises:
            OverloadedError: There are too many unfinished jobs.
            OverQuotaError: The owner has too many jobs, or too large ones.
        """
        text = written(request)
        size = _STATE_BYTES + len(text) + _PART_BYTES * job.parts

        async def transact(pipe: Pipeline) -> bytes | None:
            if await pipe.exists(_key(job.id)):
                return None  # the reply to the first try was lost
            if note is not None and (known := await pipe.get(note.key)) is not None:
                return bytes(known)
            await self._check_unfinished(pipe)
            await self._check_kept(pipe, job.owner, size)
            pipe.multi()
            if note is not None:
                pipe.set(note.key, note.text, ex=note.seconds)
            state = self._offered(job, pipe).model_dump_json()
            pipe.hset(_key(job.id), mapping={"request": text, "state": state, "bytes": size})
            pipe.hincrby(_BYTES, job.owner, size)
            pipe.zadd(_of(job.owner), {job.id: job.created.timestamp()})
            pipe.sadd(_UNFINISHED, job.id)
            return None

        watched = [_key(job.id), *([] if note is None else [note.key])]
        async with self._connection.calling() as redis:
            known: bytes | None = await redis.transaction(
                transact, *watched, value_from_callable=True
            )
        return known

    async def read(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job, if need be only one of this owner.

        Raises:
            UnknownJobError: There is none.
        """
        async with self._connection.calling() as redis:
            state = await redis.hget(_key(job_id), "state")
        return _owned(job_id, state, owner)

    async def request(self, job_id: str) -> Request:
        """Return a job's pinned request.

        Raises:
            UnknownJobError: There is none.
        """
        async with self._connection.calling() as redis:
            text = await redis.hget(_key(job_id), "request")
        if text is None:
            raise _unknown(job_id)
        with of_newer_release():
            return _REQUEST.validate_json(text)

    async def newest(self, owner: str, offset: int, limit: int) -> tuple[list[Job], int]:
        """Return some jobs of an owner, newest first, and how many there are."""
        async with self._connection.calling() as redis:
            total = await redis.zcard(_of(owner))
            ids = await redis.zrevrange(_of(owner), offset, offset + limit - 1)
            async with redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hget(_key(job_id.decode()), "state")
                states = await pipe.execute()
        return [Job.read(state) for state in states if state], total

    async def begin(self, entry: Entry) -> Job | None:
        """Return the job of a part that was taken, or drop the part if it is wanted no more."""
        try:
            job = await self.read(entry.job)
        except UnknownJobError:
            job = None
        if job is None or not wanted(job, entry):
            await self._drop(entry)
            return None
        if job.status == "queued":
            job = await self._change(entry.job, self._begun)
        return job

    async def finish(self, entry: Entry) -> Job:
        """Account for a part that is stored, and offer another in its place."""

        def finished(job: Job, pipe: Pipeline) -> Job:
            self._queue.remove(pipe, entry)
            if not wanted(job, entry):
                return job
            if entry.part == ASSEMBLY:
                return job.end("succeeded", self._clock())
            job, offered = job.finish(entry.part).offer()
            if job.complete:
                offered = ASSEMBLY
            if offered is not None:
                self._queue.add(pipe, Entry(job.id, job.run, offered))
            return job

        return await self._change(entry.job, finished)

    async def fail(self, entry: Entry, problem: dict[str, Any]) -> Job:
        """End a job with the problem of one of its parts."""

        def failed(job: Job, pipe: Pipeline) -> Job:
            self._queue.remove(pipe, entry)
            return job.end("failed", self._clock(), problem) if wanted(job, entry) else job

        return await self._change(entry.job, failed)

    async def cancel(self, job_id: str, owner: str) -> Job:
        """End a job; one that has ended stays as it is.

        Raises:
            UnknownJobError: The owner has none of this id.
        """

        def cancelled(job: Job, _: Pipeline) -> Job:
            return job if job.ended else job.end("cancelled", self._clock())

        return await self._change(job_id, cancelled, owner)

    async def resume(self, job_id: str, owner: str, stored: frozenset[int]) -> Job:
        """Queue what is missing of a job that failed or was cancelled.

        Raises:
            UnknownJobError: The owner has none of this id.
            ConflictError: It is still running, or succeeded.
            OverloadedError: There are too many unfinished jobs.
        """

        def resumed(job: Job, pipe: Pipeline) -> Job:
            return self._offered(job.resume(stored), pipe)

        async with self._connection.calling() as redis:
            await self._check_unfinished(redis)
        return await self._change(job_id, resumed, owner)

    async def stopped(self) -> AsyncIterator[str | None]:
        """Yield the ids of jobs as they are cancelled or fail; None when none was for a moment."""
        async with self._connection.calling() as redis, redis.pubsub() as channel:
            await channel.subscribe(_STOPPED)
            while True:
                message = await channel.get_message(
                    ignore_subscribe_messages=True, timeout=self._connection.block_ms / 1000
                )
                yield None if message is None else message["data"].decode()

    async def unfinished(self) -> int:
        """Count the jobs that are queued or running."""
        async with self._connection.calling() as redis:
            return int(await redis.scard(_UNFINISHED))

    async def outdated(self, skip: int = 0) -> list[str]:
        """Return some jobs that were kept long enough, without the first ``skip`` of them."""
        async with self._connection.calling() as redis:
            now = self._clock().timestamp()
            found = await redis.zrangebyscore(_KEPT, "-inf", now, start=skip, num=_SWEEP)
        return [job_id.decode() for job_id in found]

    async def forget(self, job_id: str) -> bool:
        """Delete an outdated job, but for the note that it is; `forgotten` deletes that.

        Between the two, its files are deleted: whoever crashes there leaves the note to others.

        Returns:
            Whether it is gone, so that its files are nobody's; not if it was resumed meanwhile.
        """

        async def transact(pipe: Pipeline) -> bool:
            until = await pipe.zscore(_KEPT, job_id)
            if until is None or until > self._clock().timestamp():
                return False
            state, size = await pipe.hmget(_key(job_id), "state", "bytes")
            pipe.multi()
            if state is not None:
                owner = Job.read(state).owner
                pipe.zrem(_of(owner), job_id)
                pipe.hincrby(_BYTES, owner, -int(size))
                pipe.delete(_key(job_id))
            return True

        async with self._connection.calling() as redis:
            gone: bool = await redis.transaction(transact, _key(job_id), value_from_callable=True)
        return gone

    async def forgotten(self, job_id: str) -> None:
        """Note that nothing is left of a job."""
        async with self._connection.calling() as redis:
            await redis.zrem(_KEPT, job_id)

    async def _drop(self, entry: Entry) -> None:
        async with self._connection.calling() as redis, redis.pipeline(transaction=True) as pipe:
            self._queue.remove(pipe, entry)
            await pipe.execute()

    async def _check_unfinished(self, redis: Client) -> None:
        if await redis.scard(_UNFINISHED) >= self._settings.max_unfinished:
            raise OverloadedError(
                f"expected fewer than {self._settings.max_unfinished} unfinished jobs, found no "
                "room for one more; try again later",
                retry_after_seconds=_FULL_SECONDS,
            )

    async def _check_kept(self, redis: Client, owner: str, size: int) -> None:
        taken, most = int(await redis.hget(_BYTES, owner) or 0), self._settings.kept_bytes
        if taken + size <= most:
            return
        oldest = await redis.zrange(_of(owner), 0, 0)
        until = await redis.zscore(_KEPT, oldest[0]) if oldest else None
        wait = 0.0 if until is None else until - self._clock().timestamp()
        raise OverQuotaError(
            f"expected your jobs to take at most {most} bytes of memory, found {taken} taken and "
            f"{size} more asked for; a job gives them back {self._settings.keep_seconds:.0f} s "
            "after its end",
            retry_after_seconds=max(_FULL_SECONDS, wait),
        )

    def _begun(self, job: Job, _: Pipeline) -> Job:
        return job.begin(self._clock()) if job.status == "queued" else job

    def _offered(self, job: Job, pipe: Pipeline) -> Job:
        """Offer as many parts as may be in the making at a time."""
        if job.complete:
            self._queue.add(pipe, Entry(job.id, job.run, ASSEMBLY))
            return job
        for _ in range(self._settings.parallel_parts):
            job, part = job.offer()
            if part is None:
                break
            self._queue.add(pipe, Entry(job.id, job.run, part))
        return job

    async def _change(
        self, job_id: str, change: Callable[[Job, Pipeline], Job], owner: str | None = None
    ) -> Job:
        """Replace a job's state by what ``change`` makes of it, with what that queues."""
        token = secrets.token_bytes(8)
        tried: tuple[Job, Job] | None = None

        async def transact(pipe: Pipeline) -> tuple[Job, Job]:
            nonlocal tried
            state, changed_by = await pipe.hmget(_key(job_id), "state", "changed_by")
            if tried is not None and changed_by == token:
                return tried  # it was done, and the reply lost
            before = _owned(job_id, state, owner)
            pipe.multi()
            after = change(before, pipe)
            if after is not before:
                now = {"state": after.model_dump_json(), "changed_by": token}
                pipe.hset(_key(job_id), mapping=now)
                self._account(before, after, pipe)
            tried = before, after
            return tried

        async with self._connection.calling() as redis:
            before, after = await redis.transaction(
                transact, _key(job_id), value_from_callable=True
            )
        if after.ended and not before.ended:
            self._metrics.jobs.labels(after.status).inc()
            _log.info("job.ended", job=after.id, status=after.status, images=after.images_done)
        return cast("Job", after)

    def _account(self, before: Job, after: Job, pipe: Pipeline) -> None:
        """Keep the sets of unfinished and of ended jobs."""
        if after.ended and not before.ended:
            until = after.ended + timedelta(seconds=self._settings.keep_seconds)
            pipe.srem(_UNFINISHED, after.id)
            pipe.zadd(_KEPT, {after.id: until.timestamp()})
            if after.status != "succeeded":
                pipe.publish(_STOPPED, after.id)
        elif before.ended and not after.ended:
            pipe.zrem(_KEPT, after.id)
            pipe.sadd(_UNFINISHED, after.id)


def written(request: Request) -> str:
    """Return a request as JSON that is read as the same request."""
    return request.model_dump_json(exclude_unset=True, exclude_none=True)


def wanted(job: Job, entry: Entry) -> bool:
    """Return whether a part is still to be made."""
    return not job.ended and job.run == entry.run and entry.part not in job.finished


def _key(job_id: str) -> str:
    return f"gmem:job:{job_id}"


def _of(owner: str) -> str:
    return f"gmem:jobs:of:{owner}"


def _owned(job_id: str, state: bytes | None, owner: str | None) -> Job:
    job = None if state is None else Job.read(state)
    if job is None or owner not in (None, job.owner):
        raise _unknown(job_id)
    return job


def _unknown(job_id: str) -> UnknownJobError:
    return UnknownJobError(
        f"expected the id of a job of yours, found {job_id[:100]!r}; GET /jobs lists them, and "
        "jobs are forgotten some time after their end"
    )
