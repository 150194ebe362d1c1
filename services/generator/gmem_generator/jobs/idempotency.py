"""Requests sent again with their ``Idempotency-Key``, as by a client that lost the answer.

An image is a function of its pinned request. So no answer is kept, only what was chosen for the
first request with a key: whoever repeats it gets the same images, made again, or the same job.

::

    gmem:key:<owner>:<hash of the key>          what it stands for
    gmem:key:<owner>:<hash of the key>:lock     token of who is answering it; ends soon after them
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

from gmem_generator.jobs.board import Note, Request, written
from gmem_generator.jobs.connection import Connection, Pipeline
from gmem_generator.jobs.record import Record, of_newer_release
from gmem_shared.errors import InFlightError, KeyReusedError, NotReadyError
from gmem_shared.settings import JobsSettings

_T = TypeVar("_T")

_LOCK_MS = 5000
_RENEW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key of a caller, and the request it came with.

    ``fingerprint`` tells requests apart: another body, or a job instead of an answer. What a body
    does not say is no part of it, so that it outlives a release that adds a field.
    """

    name: str
    fingerprint: str

    @classmethod
    def of(cls, owner: str, key: str, request: Request, *, job: bool) -> Key:
        """Make the key of a request."""
        hashed = hashlib.sha256(key.encode()).hexdigest()
        text = f"{'job' if job else 'answer'} {written(request)}"
        return cls(f"gmem:key:{owner}:{hashed}", hashlib.sha256(text.encode()).hexdigest())


class Memory(Record):
    """What a key stands for: an answer to a pinned request, or a job.

    Attributes:
        chosen: The fields in which the pinned request differs from the one that came. The rest,
            which may be large, comes again with whoever repeats it.
    """

    fingerprint: str
    chosen: dict[str, Any] | None = None
    job: str | None = None

    def pin(self, request: Request) -> Request:
        """Pin a request that came again as the first was.

        Raises:
            NewerRecordError: A newer release chose something that this one knows nothing of.
        """
        with of_newer_release():
            return type(request).model_validate(
                request.model_dump(exclude_unset=True) | (self.chosen or {})
            )


class Idempotency:
    """What is remembered of requests with a key."""

    def __init__(self, connection: Connection, settings: JobsSettings) -> None:
        self._connection = connection
        self._seconds = settings.idempotency_seconds
        self._required = settings.idempotency_required

    def note(
        self, key: Key, *, chosen: dict[str, Any] | None = None, job: str | None = None
    ) -> Note:
        """Return what is to be remembered under a key."""
        memory = Memory(fingerprint=key.fingerprint, chosen=chosen, job=job)
        return Note(key.name, memory.model_dump_json(exclude_none=True), self._seconds)

    def recall(self, key: Key, text: bytes) -> Memory:
        """Read what is remembered under a key.

        Raises:
            KeyReusedError: It came with another request.
            NewerRecordError: A newer release remembered it.
        """
        memory = Memory.read(text)
        if memory.fingerprint != key.fingerprint:
            raise KeyReusedError(
                "expected an 'Idempotency-Key' that was not used before, or the request it was "
                "used for, found another request; take a new key"
            )
        return memory

    async def known(self, key: Key) -> Memory | None:
        """Return what is remembered under a key, if anything.

        Raises:
            KeyReusedError: It came with another request.
            NotReadyError: Redis is away.
        """
        async with self._connection.calling() as redis:
            text = await redis.get(key.name)
        return None if text is None else self.recall(key, text)

    @asynccontextmanager
    async def once(
        self, key: Key, request: Request, pin: Callable[[], Awaitable[Request]]
    ) -> AsyncIterator[Request]:
        """Lend the request to be answered: as it was pinned the first time.

        Args:
            key: Under which it is remembered.
            request: As it came.
            pin: Pins it, if this is the first time.

        Raises:
            InFlightError: It is being answered now.
            KeyReusedError: The key came with another request before.
            NotReadyError: Redis is away, so that nothing can be promised.
        """
        lock = _Lock(self._connection, key)
        found = await self._unless_away(lock.take())
        if found is None:
            yield request
            return
        async with lock.held():
            known = None if found.note is None else self.recall(key, found.note)
            if found.others_seconds is not None:
                raise InFlightError(
                    "expected a request that is not being answered yet, found that the one with "
                    "this 'Idempotency-Key' is; wait for its answer, or repeat it later",
                    retry_after_seconds=found.others_seconds,
                )
            if known is None:
                pinned = await pin()
                known = await self._remembered(key, _differing(request, pinned))
            yield known.pin(request)

    async def _remembered(self, key: Key, chosen: dict[str, Any]) -> Memory:
        """Remember what was chosen, unless something is remembered; return what is."""
        note = self.note(key, chosen=chosen)
        there = await self._unless_away(self._put(note))
        return self.recall(key, note.text.encode() if there is None else there)

    async def _put(self, note: Note) -> bytes | None:
        async with self._connection.calling() as redis, redis.pipeline(transaction=True) as pipe:
            pipe.set(note.key, note.text, nx=True, ex=note.seconds)
            pipe.get(note.key)
            _, there = await pipe.execute()
        return cast("bytes | None", there)

    async def _unless_away(self, call: Awaitable[_T]) -> _T | None:
        """Return what a call does; `None` if Redis is away and nothing has to be promised."""
        try:
            return await call
        except NotReadyError:
            if self._required:
                raise
            return None


class _Found(NamedTuple):
    """What there is of a key: a note; and for how long at least somebody else has the lock."""

    note: bytes | None
    others_seconds: float | None


class _Lock:
    """Tells others that a request is being answered, as long as whoever answers it lives.

    It spares double work, no more: who finds it ended early makes the same images, as only one
    request is remembered.
    """

    def __init__(self, connection: Connection, key: Key) -> None:
        self._connection = connection
        self._key = key.name
        self._name = f"{key.name}:lock"
        self._token = secrets.token_bytes(16)

    async def take(self) -> _Found:
        """Take it, unless somebody else has it."""
        async with self._connection.calling() as redis, redis.pipeline(transaction=True) as pipe:
            pipe.set(self._name, self._token, nx=True, px=_LOCK_MS)
            pipe.get(self._name)  # it is ours also where the reply was lost and this sent again
            pipe.pttl(self._name)
            pipe.get(self._key)
            _, token, left_ms, note = await pipe.execute()
        return _Found(note, None if token == self._token else left_ms / 1000)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Renew it during the block, and then release it."""
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(NotReadyError):  # it ends by itself
                await self._change(lambda pipe: pipe.delete(self._name))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(NotReadyError):
                await self._change(lambda pipe: pipe.set(self._name, self._token, px=_LOCK_MS))

    async def _change(self, change: Callable[[Pipeline], object]) -> None:
        """Do something to it, unless somebody else took it after it had ended."""

        async def transact(pipe: Pipeline) -> None:
            token = await pipe.get(self._name)
            pipe.multi()
            if token in (None, self._token):
                change(pipe)

        async with self._connection.calling() as redis:
            await redis.transaction(transact, self._name)


def _differing(request: Request, pinned: Request) -> dict[str, Any]:
    return {name: value for name, value in pinned if value != getattr(request, name)}
