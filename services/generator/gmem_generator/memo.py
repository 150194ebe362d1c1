"""Remembers what the bank and the engine said about themselves, for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_MAX_ENTRIES = 256


class Memo(Generic[T]):
    """Answers by key, for ``seconds``; concurrent callers share one call, failures are not kept.

    Requests then pay no round trip to learn which version an alias means, and a moved alias is
    seen at most ``seconds`` later.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[T]],
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[str, tuple[float, asyncio.Task[T]]] = {}

    async def get(self, key: str) -> T:
        """Return what ``fetch(key)`` returned a moment ago, or returns now."""
        expires, task = self._entries.get(key, (0.0, None))
        if task is None or expires <= self._clock() or _failed(task):
            task = asyncio.create_task(self._call(key))
            task.add_done_callback(_failed)  # a failure nobody waits for any more is no news
            self._entries.pop(key, None)
            self._entries[key] = (self._clock() + self._seconds, task)
            if len(self._entries) > _MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]
        return task.result() if task.done() else await asyncio.shield(task)

    def forget(self) -> None:
        """Ask anew from now on."""
        self._entries.clear()

    async def _call(self, key: str) -> T:
        return await self._fetch(key)


def _failed(task: asyncio.Task[T]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
