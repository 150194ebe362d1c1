"""How much a caller may ask for, counted in Redis by all replicas together.

Windows slide: in the first half of a minute, half of what was asked for in the minute before still
counts. A count is two numbers whatever it counts, a refusal costs nothing, and when there is room
again can be computed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import limits
import structlog
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from gmem_generator.metrics import Metrics
from gmem_shared.errors import NotReadyError, OutOfRangeError, OverQuotaError, ReachedLimit
from gmem_shared.keys import Principal
from gmem_shared.settings import QuotaSettings, RedisSettings

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

_log = structlog.get_logger(__name__)

_AWAY_SECONDS = 5.0
"""How long Redis is left alone after it did not answer, so that not every request waits for it."""

_parse = lru_cache(limits.parse)


class Quota:
    """Counts requests and images of each caller.

    Args:
        settings: Quotas of callers who have none of their own.
        redis: Where the counts are.
        metrics: Counts what passed or was refused without Redis.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: QuotaSettings,
        redis: RedisSettings,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._timeout_seconds = redis.timeout_seconds
        self._metrics = metrics
        self._clock = clock
        self._away_until = -math.inf
        self._pool: ConnectionPool | None = None
        self._storage: MemoryStorage | RedisStorage
        if redis.url.startswith("memory:"):
            self._storage = MemoryStorage()
        else:
            from redis.asyncio import ConnectionPool  # takes 80 ms, which most starts need not pay

            url = redis.with_password()
            self._pool = ConnectionPool.from_url(url)
            self._storage = RedisStorage(
                url,
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix="gmem:quota",
                connection_pool=self._pool,  # type: ignore[arg-type] # typed as plain values only
            )
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    async def spend(self, principal: Principal, images: int) -> None:
        """Count one request and its images.

        Raises:
            OutOfRangeError: More images than the quota ever allows at once.
            OverQuotaError: The quota is used up; says when there is room for this request.
            NotReadyError: Redis is away, and the settings do not let pass what is not counted.
        """
        for name, rate, cost in self._due(principal, images):
            if self._clock() < self._away_until:
                self._uncounted()
                return
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._count(principal.id, name, rate, cost)
            except (StorageError, TimeoutError) as error:
                self._away_until = self._clock() + _AWAY_SECONDS
                _log.warning("quota.redis.away", error=repr(error), again_in=_AWAY_SECONDS)
                self._uncounted()
                return

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()

    def _due(self, principal: Principal, images: int) -> Iterator[tuple[str, str, int]]:
        """Yield what is to be counted: its name, the rate and how much of it."""
        for name, cost in (("requests", 1), ("images", images)):
            rate = getattr(principal.quota, name) or getattr(self._settings, name)
            if rate is not None and cost:
                yield name, rate, cost

    async def _count(self, caller: str, name: str, rate: str, cost: int) -> None:
        item = _parse(rate)
        if cost > item.amount:
            raise OutOfRangeError(
                f"expected at most {item.amount} {name}, all that {caller!r} may ask for "
                f"in {rate.partition('/')[2]}, found {cost}; ask for fewer"
            )
        if await self._limiter.hit(item, name, caller, cost=cost):
            return
        window = _Window(
            *await self._storage.get_sliding_window(item.key_for(name, caller), item.get_expiry())
        )
        self._metrics.refused.labels(OverQuotaError.code).inc()
        remaining = window.remaining(item.amount, item.get_expiry())
        raise OverQuotaError(
            f"expected at most {rate} {name} of {caller!r}, found {remaining} left and {cost} "
            "asked for; try again later or ask for fewer",
            retry_after_seconds=window.wait(item.amount - cost, item.get_expiry()),
            limit=ReachedLimit(name, item.amount, item.get_expiry(), remaining),
        )

    def _uncounted(self) -> None:
        self._metrics.quota_uncounted.labels(self._settings.redis_away).inc()
        if self._settings.redis_away == "refuse":
            raise NotReadyError(
                "expected Redis to count this request by, found it away; send the request again",
                retry_after_seconds=max(1.0, self._away_until - self._clock()),
            )


class _Window(NamedTuple):
    """A sliding window: counts of the window before and of this one, and how long each lives on.

    ``previous`` counts by the share of its time that is left; ``current`` lives one window longer
    than it counts in full.
    """

    previous: int
    previous_seconds: float
    current: int
    current_seconds: float

    def remaining(self, amount: int, seconds: int) -> int:
        """Return how much of an amount per so many seconds is left."""
        faded = math.floor(self.previous * self.previous_seconds / seconds)
        return max(0, amount - faded - self.current)

    def wait(self, most: int, seconds: int) -> float:
        """Return after how long the count is down to ``most``, if nobody asks meanwhile."""
        if self.current <= most:  # it is enough that the window before fades
            share = (most - self.current + 1) / max(self.previous, 1)
            return max(0.0, self.previous_seconds - share * seconds)
        return max(0.0, self.current_seconds - (most + 1) / self.current * seconds)
