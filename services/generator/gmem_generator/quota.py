"""How much a caller may ask for, counted in Redis by all replicas together.

Windows slide: in the first half of a minute, half of what was asked for in the minute before still
counts. A count is two numbers whatever it counts, a refusal costs nothing, and when there is room
again can be computed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

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


class Charge:
    """What was counted of a request."""

    def __init__(self) -> None:
        self.kept = False

    def keep(self) -> None:
        """Leave it counted: what it is for will be done."""
        self.kept = True


Spend = Callable[[int], AbstractAsyncContextManager[Charge]]
"""Takes so many images from a caller's quota, or raises; see `Quota.spend`."""


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

            self._pool = ConnectionPool.from_url(**redis.client_options())
            self._storage = RedisStorage(
                redis.url,
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix="gmem:quota",
                connection_pool=self._pool,  # type: ignore[arg-type] # typed as plain values only
            )
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    @asynccontextmanager
    async def spend(self, principal: Principal, images: int) -> AsyncIterator[Charge]:
        """Count one request and its images; what the block does not keep is given back.

        Raises:
            OutOfRangeError: More images than the quota ever allows at once.
            OverQuotaError: The quota is used up; says when there is room for this request.
            NotReadyError: Redis is away, and the settings do not let pass what is not counted; or
                it is full.
        """
        due = list(self._due(principal, images))
        for each in due:
            each.check(principal.id)
        charge, counted = Charge(), list[_Due]()
        try:
            if due:
                await self._count(principal.id, due, counted)
            yield charge
        finally:
            if not charge.kept and counted:
                await self._give_back(principal.id, counted)

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()

    def _due(self, principal: Principal, images: int) -> Iterator[_Due]:
        """Yield what is to be counted."""
        for name, cost in (("requests", 1), ("images", images)):
            rate = getattr(principal.quota, name) or getattr(self._settings, name)
            if rate is not None and cost:
                yield _Due(name, rate, cost)

    async def _count(self, caller: str, due: list[_Due], counted: list[_Due]) -> None:
        """Count what is due, and note what was counted; raises what `spend` does."""
        try:
            async with self._asking():
                refusal = await self._hit(caller, due, counted)
        except _UncountedError as error:
            self._uncounted(error)
            return
        if refusal is not None:
            self._metrics.refused.labels(OverQuotaError.code).inc()
            raise refusal

    async def _hit(
        self, caller: str, due: list[_Due], counted: list[_Due]
    ) -> OverQuotaError | None:
        """Count what is due until something is refused; return the refusal."""
        for each in due:
            if not await self._limiter.hit(each.item, each.name, caller, cost=each.cost):
                key, seconds = each.item.key_for(each.name, caller), each.item.get_expiry()
                return each.refusal(
                    caller, _Window(*await self._storage.get_sliding_window(key, seconds))
                )
            counted.append(each)
        return None

    async def _give_back(self, caller: str, counted: list[_Due]) -> None:
        with suppress(_UncountedError):  # what is not given back fades with its window
            async with self._asking():
                for each in counted:  # the library has no other word for it than a negative cost
                    await self._limiter.hit(each.item, each.name, caller, cost=-each.cost)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Let the block ask Redis, unless that did not answer a moment ago.

        Raises:
            _UncountedError: It is away, or full.
        """
        if self._clock() < self._away_until:
            raise _UncountedError("away")
        if self._away_until > -math.inf:  # it was away: this request looks, the others do not wait
            self._away_until = self._clock() + self._timeout_seconds + _AWAY_SECONDS
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except (StorageError, TimeoutError) as error:
            if _is_full(error):
                self._away_until = -math.inf
                raise _UncountedError("full") from error
            self._away_until = self._clock() + _AWAY_SECONDS
            _log.warning("quota.redis.away", error=repr(error), again_in=_AWAY_SECONDS)
            raise _UncountedError("away") from error
        self._away_until = -math.inf

    def _uncounted(self, error: _UncountedError) -> None:
        """Let pass what was not counted, or refuse it.

        A full Redis is no excuse: callers can fill it, and would then have no quota.
        """
        outcome = self._settings.redis_away if error.found == "away" else "refuse"
        self._metrics.quota_uncounted.labels(outcome).inc()
        if outcome == "refuse":
            raise NotReadyError(
                f"expected Redis to count this request by, found it {error.found}; send the "
                "request again",
                retry_after_seconds=max(1.0, self._away_until - self._clock()),
            ) from error


class _UncountedError(Exception):
    """Redis did not count; ``found`` says how it was."""

    def __init__(self, found: Literal["away", "full"]) -> None:
        super().__init__(found)
        self.found = found


def _is_full(error: StorageError | TimeoutError) -> bool:
    from redis.exceptions import OutOfMemoryError  # late, as above

    return isinstance(getattr(error, "storage_error", None), OutOfMemoryError)


class _Due(NamedTuple):
    """Something to be counted: so much of it, at a rate."""

    name: str
    rate: str
    cost: int

    @property
    def item(self) -> limits.RateLimitItem:
        """The rate as the library has it."""
        return _parse(self.rate)

    def check(self, caller: str) -> None:
        """Return if there can ever be room for it; raises `OutOfRangeError`."""
        if self.cost > self.item.amount:
            raise OutOfRangeError(
                f"expected at most {self.item.amount} {self.name}, all that {caller!r} may ask for "
                f"in {self.rate.partition('/')[2]}, found {self.cost}; ask for fewer"
            )

    def refusal(self, caller: str, window: _Window) -> OverQuotaError:
        """Return why there is no room for it now, and when there will be."""
        amount, seconds = self.item.amount, self.item.get_expiry()
        remaining = window.remaining(amount, seconds)
        return OverQuotaError(
            f"expected at most {self.rate} {self.name} of {caller!r}, found {remaining} left and "
            f"{self.cost} asked for; try again later or ask for fewer",
            retry_after_seconds=window.wait(amount - self.cost, seconds),
            limit=ReachedLimit(self.name, amount, seconds, remaining),
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
