"""The connection to Redis. Its errors end here: whatever fails becomes `NotReadyError`."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from gmem_generator.metrics import Metrics
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import RedisSettings

_log = structlog.get_logger(__name__)

# redis-py types every answer as a value or something that can be awaited.
Client = Any
Pipeline = Any

_RETRY_AFTER_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_STAND_IN_MS = 5000


class Connection:
    """A client of Redis, or of a stand-in within this process, and whether it answered last.

    Args:
        settings: Where Redis is; ``memory://`` is the stand-in.
        metrics: Shows whether it answers.
        processes: That share the port; more than one cannot have a stand-in each.
    """

    def __init__(self, settings: RedisSettings, metrics: Metrics, processes: int = 1) -> None:
        self.shared = settings.url != "memory://"
        """Whether other processes see what is kept here."""
        self.block_ms = int(settings.timeout_seconds * 500) if self.shared else _STAND_IN_MS
        """How long a call may wait for news, so that silence is not taken for absence."""
        self._settings = settings
        self._redis: Client | None = None
        self._used = asyncio.Event()
        self._usable = self.shared or processes == 1
        self._up = metrics.redis_up
        self._problem: str | None = None
        self._full = False
        self._up.set(self._usable)

    @property
    def problem(self) -> str | None:
        """Why Redis counts as away: did not answer the last call, or takes nothing more."""
        return self._problem

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Client]:
        """Lend the client.

        Raises:
            NotReadyError: Redis did not answer, or not as expected.
        """
        if not self._usable:
            raise NotReadyError(
                "expected a Redis that the workers of this port share, found none; set "
                "GMEM_REDIS__URL, or serve with one worker",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        if self._redis is None:
            if not self.shared:
                await asyncio.to_thread(importlib.import_module, "fakeredis")  # half a second
            self._redis = self._redis or _connect(self._settings)
            self._used.set()
        # This takes 80 ms, which most starts need not pay.
        from redis.exceptions import OutOfMemoryError, RedisError

        try:
            yield self._redis
        except (RedisError, OSError, TimeoutError) as error:
            self._full = self._full or isinstance(error, OutOfMemoryError)
            self._tell(f"{type(error).__name__}: {error}"[:200])
            raise NotReadyError(
                f"expected an answer of Redis, which keeps jobs and idempotency keys, found "
                f"{self._problem}; try again, or generate without either",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            ) from error
        if not self._full:
            self._tell(None)

    async def check_room(self) -> None:
        """Find out whether Redis has room again: when it is full, it still answers most calls.

        Raises:
            NotReadyError: It has none, or is away.
        """
        async with self.calling() as redis:
            await redis.set("gmem:room", b"", px=1)
            self._full = False

    async def needed(self) -> None:
        """Return when there may be something: of the stand-in, when somebody has used it."""
        if not self.shared:
            await self._used.wait()

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.aclose()

    def _tell(self, problem: str | None) -> None:
        if (problem is None) != (self._problem is None):
            _log.warning("redis.away" if problem else "redis.back", problem=problem)
        self._problem = problem
        self._up.set(problem is None)


def _connect(settings: RedisSettings) -> Client:
    if settings.url == "memory://":
        import fakeredis  # whoever has a Redis does without it

        return fakeredis.FakeAsyncRedis()
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import ConstantBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    # A connection that a restart of Redis cut is replaced; a call that took too long is not
    # repeated behind the back of whoever waits.
    once = Retry(ConstantBackoff(_PAUSE_SECONDS), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(**settings.client_options(), retry=once)
