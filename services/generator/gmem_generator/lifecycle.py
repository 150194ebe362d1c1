"""Deadlines and the orderly end: what runs may finish, nothing new begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gmem_shared.errors import DeadlineExceededError, NotReadyError


class Drain:
    """Knows the work in flight, so that a stopping server can wait for it and then end it.

    A server may leave before it drains: it takes new work still, but says that it will not for
    long, so that a load balancer sends the next request elsewhere.
    """

    def __init__(self) -> None:
        self.leaving = False
        self.started = False
        self._expired = False
        self._running: set[asyncio.Timeout] = set()

    @property
    def idle(self) -> bool:
        """Whether no work is in flight."""
        return not self._running

    def leave(self) -> None:
        """Say from now on that the server is not ready, but take new work."""
        self.leaving = True

    def begin(self) -> None:
        """Refuse new work from now on."""
        self.leaving = self.started = True

    def expire(self) -> None:
        """End the work that is still in flight; its callers get `NotReadyError`."""
        self._expired = True
        for limit in self._running:
            if not limit.expired():
                limit.reschedule(0.0)

    def check(self) -> None:
        """Return while new work is taken.

        Raises:
            NotReadyError: The server is stopping.
        """
        if self.started:
            raise NotReadyError(
                "expected a running server, found one that is shutting down; "
                "send the request again, another replica or the restarted server will take it",
                retry_after_seconds=2.0,
            )

    @asynccontextmanager
    async def work(self, seconds: float) -> AsyncIterator[None]:
        """Run a block as work in flight, for at most ``seconds``.

        Raises:
            DeadlineExceededError: The time is over.
            NotReadyError: The server is stopping, or stopped before the block ended.
        """
        self.check()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                self._running.add(limit)
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            if self._expired:
                raise NotReadyError(
                    "the server was stopped before the answer was ready; send the request again",
                    retry_after_seconds=2.0,
                ) from error
            raise DeadlineExceededError(
                f"expected an answer within {seconds * 1000:.0f} ms, found it unfinished; "
                "ask for fewer images or steps, or allow a later 'deadline_ms'"
            ) from error
        finally:
            self._running.discard(limit)
