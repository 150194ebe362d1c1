"""Parts of jobs, handed out through a consumer group of a Redis stream.

An entry is in the stream as long as its part is wanted: whoever is done with one acknowledges and
deletes it, in one transaction with what follows from it. An entry that was taken belongs to its
taker as long as that says so now and then; afterwards it goes to whoever asks next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from gmem_generator.jobs.connection import Client, Connection, Pipeline

_T = TypeVar("_T")

ASSEMBLY = -1
"""The part that puts all others together."""

_STREAM = "gmem:jobs:queue"
_GROUP = "front-ends"
# Entries are told apart by their age, not by who has them: names of the dead would pile up.
_CONSUMER = "front-end"


@dataclass(frozen=True, slots=True)
class Entry:
    """A part to be made; ``id`` is the stream's, empty before it was put in.

    Attributes:
        run: Of the job.
        attempt: 1 at first.
    """

    job: str
    run: int
    part: int
    attempt: int = 1
    id: str = ""


class Queue:
    """The stream.

    Args:
        claim_seconds: Silence after which a taken entry goes to another.
        clock: Monotonic seconds.
    """

    def __init__(
        self, connection: Connection, claim_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._claim_ms = int(claim_seconds * 1000)
        self._clock = clock
        self._look_again = 0.0
        self._cursor = b"0-0"

    def add(self, pipe: Pipeline, entry: Entry) -> None:
        """Put a part at the end, as a step of a transaction."""
        fields = {
            "job": entry.job, "run": entry.run, "part": entry.part, "attempt": entry.attempt,
        }  # fmt: skip
        pipe.xadd(_STREAM, fields)

    def remove(self, pipe: Pipeline, entry: Entry) -> None:
        """Take a part out for good, as a step of a transaction."""
        pipe.xack(_STREAM, _GROUP, entry.id)
        pipe.xdel(_STREAM, entry.id)

    async def take(self) -> Entry | None:
        """Take a part that is nobody's; waits a moment for one, or returns `None`.

        Raises:
            NotReadyError: Redis is away.
        """
        async with self._connection.calling() as redis:
            return await self._grouped(redis, self._next(redis))

    async def keep(self, entries: Collection[Entry]) -> None:
        """Say that these are still being worked on.

        Raises:
            NotReadyError: Redis is away.
        """
        if not entries:
            return
        ids = [entry.id for entry in entries]
        async with self._connection.calling() as redis:
            kept = redis.xclaim(_STREAM, _GROUP, _CONSUMER, 0, ids, justid=True)
            await self._grouped(redis, kept)

    async def put_back(self, entry: Entry, *, attempt: int) -> None:
        """Offer a part that was taken again, at the end; one that is in the stream no more is not.

        Raises:
            NotReadyError: Redis is away.
        """

        async def transact(pipe: Pipeline) -> None:
            there = await pipe.xrange(_STREAM, entry.id, entry.id)
            pipe.multi()
            if there:  # else it was put back already, and the reply lost
                self.remove(pipe, entry)
                self.add(pipe, Entry(entry.job, entry.run, entry.part, attempt))

        async with self._connection.calling() as redis:
            await redis.transaction(transact, _STREAM)

    async def length(self) -> int:
        """Count the entries, waiting or taken.

        Raises:
            NotReadyError: Redis is away.
        """
        async with self._connection.calling() as redis:
            return int(await redis.xlen(_STREAM))

    async def _next(self, redis: Client) -> Entry | None:
        return await self._abandoned(redis) or await self._new(redis)

    async def _new(self, redis: Client) -> Entry | None:
        """Take an entry that nobody had, if there is one in a moment."""
        found = await redis.xreadgroup(
            _GROUP, _CONSUMER, {_STREAM: ">"}, count=1, block=self._connection.block_ms
        )
        return _entry(found[0][1][0]) if found else None

    async def _abandoned(self, redis: Client) -> Entry | None:
        """Take an entry over from somebody who is silent; each crash counts as an attempt.

        One call looks at few of the taken entries, the next one at those that follow; after the
        last one, nobody looks for a while.
        """
        if self._clock() < self._look_again:
            return None
        self._cursor, claimed, *_ = await redis.xautoclaim(
            _STREAM, _GROUP, _CONSUMER, self._claim_ms, self._cursor, count=1
        )
        if self._cursor == b"0-0":
            self._look_again = self._clock() + self._claim_ms / 3000
        if not claimed:
            return None
        entry = _entry(claimed[0])
        pending = await redis.xpending_range(_STREAM, _GROUP, entry.id, entry.id, 1)
        if not pending:  # its taker was not silent for ever, and is done with it
            return None
        crashes = pending[0]["times_delivered"] - 1
        return Entry(entry.job, entry.run, entry.part, entry.attempt + crashes, entry.id)

    async def _grouped(self, redis: Client, call: Awaitable[_T]) -> _T | None:
        """Return what a call does, or `None` if Redis lost the group, and all entries with it."""
        from redis.exceptions import ResponseError  # see `Connection`

        try:
            return await call
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._found(redis)
            return None

    async def _found(self, redis: Client) -> None:
        from redis.exceptions import ResponseError

        try:
            await redis.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another front end was faster
                raise


def _entry(message: tuple[bytes, dict[bytes, bytes]]) -> Entry:
    number, fields = message
    run, part, attempt = (int(fields[name]) for name in (b"run", b"part", b"attempt"))
    return Entry(fields[b"job"].decode(), run, part, attempt, number.decode())
