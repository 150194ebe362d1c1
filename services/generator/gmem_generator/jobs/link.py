"""The connection to Redis. Its errors end here: whatever fails becomes `NotReadyError`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gmem_generator.metrics import Metrics
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import RedisSettings

_log = structlog.get_logger(__name__)

# redis-py types every answer as a value or something that can be awaited.
Client = Any
Pipeline = Any

_RETRY_AFTER_SECONDS = 2.0
_PAUSE_SECONDS = 0.05


class Link:
    """A client of Redis, or of a stand-in within this process, and whether it answered last.

    Args:
        settings: Where Redis is; ``memory://`` is the stand-in.
        metrics: Shows whether it answers.
    """

    def __init__(self, settings: RedisSettings, metrics: Metrics) -> None:
        self.shared = settings.url != "memory://"
        """Whether other processes see what is kept here."""
        self.block_ms = int(settings.timeout_seconds * 500)
        """How long a call may wait for news, so that silence is not taken for absence."""
        self._redis = _connect(settings)
        self._up = metrics.redis_up
        self._problem: str | None = None
        self._up.set(1)

    @property
    def problem(self) -> str | None:
        """Why Redis counts as away, as of the last call."""
        return self._problem

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Client]:
        """Lend the client.

        Raises:
            NotReadyError: Redis did not answer, or not as expected.
        """
        try:
            yield self._redis
        except (RedisError, OSError, TimeoutError) as error:
            self._tell(f"{type(error).__name__}: {error}"[:200])
            raise NotReadyError(
                f"expected an answer of Redis, which keeps jobs and idempotency keys, found "
                f"{self._problem}; try again, or generate without either",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            ) from error
        self._tell(None)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _tell(self, problem: str | None) -> None:
        if (problem is None) != (self._problem is None):
            _log.warning("redis.away" if problem else "redis.back", problem=problem)
        self._problem = problem
        self._up.set(problem is None)


def _connect(settings: RedisSettings) -> Client:
    if settings.url == "memory://":
        import fakeredis  # who has a Redis does without it

        return fakeredis.FakeAsyncRedis()
    # A connection that a restart of Redis cut is replaced; a call that took too long is not
    # repeated behind the back of whoever waits.
    once = Retry(ConstantBackoff(_PAUSE_SECONDS), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(
        settings.url,
        socket_timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
        retry=once,
    )
