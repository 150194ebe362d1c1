"""Works on jobs beside whatever else the front end does, and yields to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import structlog
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    wait_random_exponential,
)

from gmem_generator.admission import Admission
from gmem_generator.jobs.board import Board, wanted
from gmem_generator.jobs.connection import Connection
from gmem_generator.jobs.making import Maker
from gmem_generator.jobs.queue import ASSEMBLY, Entry, Queue
from gmem_generator.jobs.record import Job
from gmem_generator.lifecycle import Drain
from gmem_generator.metrics import Metrics
from gmem_shared.errors import (
    GmemError,
    InternalError,
    NewerRecordError,
    NotReadyError,
    OverloadedError,
    StorageError,
    UnknownJobError,
    status_of,
    to_problem,
)
from gmem_shared.settings import JobsSettings
from gmem_shared.store import Results

_log = structlog.get_logger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PASSING = (NotReadyError, OverloadedError, StorageError)
"""They tell something about the moment, nothing about the part."""

_TICK_SECONDS = 0.1
_BEAT_SECONDS = 5.0
_YIELD_SECONDS = 0.05
_SWEEP_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0


class Worker:
    """Takes parts and makes them, a few at a time.

    Args:
        connection: Whose queue it is.
        drain: When it begins, parts in the making are given back.
        admission: Parts are taken while it has places to spare.
    """

    def __init__(
        self,
        board: Board,
        queue: Queue,
        maker: Maker,
        results: Results,
        *,
        connection: Connection,
        drain: Drain,
        admission: Admission,
        metrics: Metrics,
        settings: JobsSettings,
    ) -> None:
        self._board = board
        self._queue = queue
        self._maker = maker
        self._results = results
        self._drain = drain
        self._admission = admission
        self._metrics = metrics
        self._settings = settings
        self._connection = connection
        self._running: dict[Entry, asyncio.Task[bool]] = {}
        self._closing = asyncio.Event()
        self._slots: list[asyncio.Task[None]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._pause = _FIRST_PAUSE_SECONDS

    def start(self) -> None:
        """Begin to work."""
        self._slots = [
            asyncio.create_task(self._for_ever(self._work))
            for _ in range(self._settings.concurrency)
        ]
        self._watchers = [
            asyncio.create_task(self._for_ever(watch))
            for watch in (self._beat, self._hear, self._leave, self._sweep)
        ]

    async def close(self) -> None:
        """Give back what is in the making, and stop."""
        self._closing.set()
        self._stop(self._running)
        if self._slots and self._connection.shared:  # otherwise nobody is left to whom to give it
            await asyncio.wait(self._slots, timeout=_CLOSE_SECONDS)
        for task in (*self._slots, *self._watchers):
            task.cancel()
        await asyncio.gather(*self._slots, *self._watchers, return_exceptions=True)

    @property
    def _ending(self) -> bool:
        return self._drain.started or self._closing.is_set()

    async def _for_ever(self, turn: Callable[[], Awaitable[None]]) -> None:
        """Do something again and again, until the end."""
        await self._connection.needed()
        while not self._closing.is_set():
            try:
                await turn()
            except NotReadyError:  # Redis is away, as its metric and the log say
                await self._rest()
            except Exception:  # noqa: BLE001 (a defect must not end the work unnoticed)
                _log.exception("job.worker.failed")
                await self._rest()

    async def _work(self) -> None:
        """Take a part, if there is room and one is left, and see it through."""
        if (
            self._drain.leaving
            or self._ending
            or not self._admission.spare(self._settings.part_images)
        ):
            await asyncio.sleep(_YIELD_SECONDS)
            return
        entry = await self._queue.take()
        outcome = None if entry is None else await self._see_through(entry)
        if outcome is not None:
            self._metrics.job_parts.labels(outcome).inc()
        if outcome == "put_off":
            await self._rest()
        else:
            self._pause = _FIRST_PAUSE_SECONDS

    async def _see_through(self, entry: Entry) -> str:
        """Make a part and account for it; return the outcome."""
        try:
            job = await self._insist(self._board.begin, entry)
            if job is None:
                return "dropped"
            making = asyncio.create_task(self._make(job, entry))
            self._running[entry] = making
            if self._ending:
                making.cancel()
            await asyncio.wait([making])
            if making.cancelled():
                return await self._give_back(entry)
            error = making.exception()
            if error is not None:
                return await self._failed(entry, error)
            await self._finished(entry)
        except UnknownJobError:  # Redis lost it
            return "dropped"
        except NewerRecordError:  # front ends of the newer release will take it
            await self._insist(self._queue.put_back, entry, attempt=entry.attempt)
            return "put_off"
        finally:
            self._running.pop(entry, None)
        return "made" if making.result() else "found"

    async def _make(self, job: Job, entry: Entry) -> bool:
        if entry.attempt > self._settings.max_attempts:
            raise InternalError(
                f"expected part {entry.part} of job {job.id} to be made in "
                f"{self._settings.max_attempts} attempts, found that its workers ended in the "
                "middle of it each time; their logs have the details"
            )
        if entry.part == ASSEMBLY:
            return await self._maker.result(job)
        made = await self._maker.part(job, await self._board.request(job.id), entry.part)
        if made:
            self._metrics.job_images.inc(len(job.images_of(entry.part)))
        return made

    async def _finished(self, entry: Entry) -> None:
        job = await self._insist(self._board.finish, entry)
        if entry.part == ASSEMBLY and job.status == "succeeded":
            with suppress(StorageError):  # they go with the job
                await self._maker.clear(job)

    async def _failed(self, entry: Entry, error: BaseException) -> str:
        if not isinstance(error, GmemError):
            _log.error("job.part.failed", job=entry.job, part=entry.part, exc_info=error)
            error = InternalError("a defect; the log of the front end has the details")
        _log.warning("job.part.failed", job=entry.job, part=entry.part, error=error.detail)
        if isinstance(error, _PASSING):
            await self._insist(self._queue.put_back, entry, attempt=entry.attempt)
            return "put_off"
        if status_of(error).http >= 500 and entry.attempt < self._settings.max_attempts:
            await self._insist(self._queue.put_back, entry, attempt=entry.attempt + 1)
            return "retried"
        await self._insist(self._board.fail, entry, to_problem(error))
        return "failed"

    async def _give_back(self, entry: Entry) -> str:
        """Leave a part to others, unless nobody wants it any more."""
        if await self._insist(self._board.begin, entry) is None:
            return "dropped"
        await self._insist(self._queue.put_back, entry, attempt=entry.attempt)
        return "given_back"

    async def _insist(
        self, call: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Call until Redis answers, or this ends: whoever claims the part then does it again."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(NotReadyError)
            & retry_if_not_exception_type(NewerRecordError),
            stop=lambda _: self._closing.is_set(),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            reraise=True,
        )
        return await attempts(call, *args, **kwargs)

    async def _rest(self) -> None:
        """Wait longer each time, until something succeeds."""
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause)

    async def _beat(self) -> None:
        """Keep what is in the making, and end what is not wanted any more.

        Nothing but Redis is waited for here: a part that is kept too late goes to another.
        """
        await asyncio.sleep(min(_BEAT_SECONDS, self._settings.claim_seconds / 4))
        await self._queue.keep(list(self._running))
        await self._stop_unwanted()
        self._metrics.job_parts_queued.set(await self._queue.length())
        self._metrics.jobs_unfinished.set(await self._board.unfinished())
        await self._connection.check_room()

    async def _hear(self) -> None:
        """End the parts of jobs that were stopped; `_beat` makes up for messages that are lost."""
        async for job_id in self._board.stopped():
            if self._closing.is_set():  # Python 3.11 may lose a cancellation that meets a message
                return
            self._stop(entry for entry in list(self._running) if entry.job == job_id)

    async def _leave(self) -> None:
        """End what is in the making when the server is about to stop."""
        await asyncio.sleep(_TICK_SECONDS)
        if self._ending:
            self._stop(self._running)

    async def _stop_unwanted(self) -> None:
        for entry in list(self._running):
            try:
                if not wanted(await self._board.read(entry.job), entry):
                    self._stop([entry])
            except UnknownJobError:
                self._stop([entry])
            except NewerRecordError as error:  # it goes on until it is to be accounted for
                _log.warning("job.record.newer", job=entry.job, error=error.detail)

    def _stop(self, entries: Iterable[Entry]) -> None:
        for entry in list(entries):
            making = self._running.get(entry)
            if making is not None and not making.cancelling():  # once: it may be cleaning up
                making.cancel()

    async def _sweep(self) -> None:
        """Forget jobs that were kept long enough, and delete their files."""
        stuck = 0
        while outdated := await self._board.outdated(skip=stuck):
            for job_id in outdated:
                stuck += not await self._forgotten(job_id)
        await asyncio.sleep(_SWEEP_SECONDS)

    async def _forgotten(self, job_id: str) -> bool:
        """Forget a job and delete its files; return whether nothing is left to do."""
        try:
            if await self._board.forget(job_id):
                await asyncio.to_thread(self._results.delete, job_id)
                await self._board.forgotten(job_id)
        except (StorageError, NewerRecordError) as error:
            _log.warning("job.delete.failed", job=job_id, error=error.detail)
            return False
        return True
