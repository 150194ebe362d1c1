"""Requests sent again with their ``Idempotency-Key``, as by a client that lost the answer.

An image is a function of its pinned request. So no answer is kept, only what the first request
with a key was pinned to: whoever repeats it gets the same images, made again, or the same job.

::

    gmem:key:<owner>:<hash of the key>          what it stands for
    gmem:key:<owner>:<hash of the key>:lock     there while the first is being answered
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from gmem_generator.jobs.board import Note, Request
from gmem_generator.jobs.connection import Connection
from gmem_generator.schemas import GenerateBody
from gmem_shared.errors import InFlightError, KeyReusedError, NotReadyError
from gmem_shared.settings import JobsSettings

_RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key of a caller, and the request it came with.

    ``fingerprint`` tells requests apart: another body, or a job instead of an answer.
    """

    name: str
    fingerprint: str

    @classmethod
    def of(cls, owner: str, key: str, request: Request, *, job: bool) -> Key:
        """Make the key of a request."""
        hashed = hashlib.sha256(key.encode()).hexdigest()
        text = f"{'job' if job else 'answer'} {request.model_dump_json()}"
        return cls(f"gmem:key:{owner}:{hashed}", hashlib.sha256(text.encode()).hexdigest())


class Memory(BaseModel):
    """What a key stands for: an answer to a pinned request, or a job."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    request: GenerateBody | None = None
    job: str | None = None


class Idempotency:
    """What is remembered of requests with a key."""

    def __init__(self, connection: Connection, settings: JobsSettings) -> None:
        self._connection = connection
        self._seconds = settings.idempotency_seconds
        self._required = settings.idempotency_required

    def note(self, key: Key, *, request: Request | None = None, job: str | None = None) -> Note:
        """Return what is to be remembered under a key."""
        memory = Memory(fingerprint=key.fingerprint, request=request, job=job)
        return Note(
            key.name, memory.model_dump_json(exclude_unset=True, exclude_none=True), self._seconds
        )

    def recall(self, key: Key, text: bytes) -> Memory:
        """Read what is remembered under a key.

        Raises:
            KeyReusedError: It came with another request.
        """
        memory = Memory.model_validate_json(text)
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
        self, key: Key, seconds: float, request: Request, pin: Callable[[], Awaitable[Request]]
    ) -> AsyncIterator[Request]:
        """Lend the request to be answered: as it was pinned the first time.

        Args:
            key: Under which it is remembered.
            seconds: How long answering takes at most.
            request: As it came.
            pin: Pins it, if this is the first time.

        Raises:
            InFlightError: It is being answered now.
            KeyReusedError: The key came with another request before.
            NotReadyError: Redis is away, so that nothing can be promised.
        """
        try:
            locked, text = await self._lock(key, seconds)
        except NotReadyError:
            if self._required:
                raise
            locked, text = None, None
        if locked is None:
            yield request
            return
        try:
            memory = None if text is None else self.recall(key, text)
            if not locked:
                raise InFlightError(
                    "expected a request that is not being answered yet, found that the one with "
                    "this 'Idempotency-Key' is; wait for its answer, or repeat it later",
                    retry_after_seconds=_RETRY_AFTER_SECONDS,
                )
            if memory is None or memory.request is None:
                yield await self._remembered(key, await pin())
            else:
                yield memory.request
        finally:
            if locked:
                await self._unlock(key)

    async def _lock(self, key: Key, seconds: float) -> tuple[bool | None, bytes | None]:
        """Take the lock; two at once would be no harm, as both make the same images."""
        async with self._connection.calling() as redis, redis.pipeline(transaction=True) as pipe:
            pipe.set(f"{key.name}:lock", b"", nx=True, px=int(seconds * 1000))
            pipe.get(key.name)
            locked, text = await pipe.execute()
        return bool(locked), text

    async def _remembered(self, key: Key, request: Request) -> Request:
        note = self.note(key, request=request)
        async with self._connection.calling() as redis:
            await redis.set(note.key, note.text, nx=True, ex=note.seconds)
        return request

    async def _unlock(self, key: Key) -> None:
        with suppress(NotReadyError):  # it ends by itself
            async with self._connection.calling() as redis:
                await redis.delete(f"{key.name}:lock")
