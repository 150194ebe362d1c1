"""Whether each part the front end needs would take a request now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gmem_generator.jobs.connection import Connection
from gmem_generator.lifecycle import Drain
from gmem_generator.metrics import Metrics
from gmem_generator.resolve import Resolver
from gmem_generator.schemas import Part
from gmem_shared.errors import GmemError, NotReadyError
from gmem_shared.ports import Backend, BankSource

TIMEOUT_SECONDS = 2.0


class Readiness:
    """Asks bank and engine, every time anew.

    The bank counts only if the default model draws from one: a front end of label models is ready
    without. Redis is shown and never counts: it is needed by jobs and idempotency keys alone.
    """

    def __init__(
        self,
        bank: BankSource,
        backend: Backend,
        drain: Drain,
        metrics: Metrics,
        resolver: Resolver,
        connection: Connection,
    ) -> None:
        async def server() -> None:
            if drain.leaving:
                raise NotReadyError("the server is shutting down", retry_after_seconds=2.0)

        self._checks: dict[str, Callable[[], Awaitable[None]]] = {
            "server": server,
            "bank": bank.check,
            "engine": backend.check,
        }
        self._metrics = metrics
        self._resolver = resolver
        self._connection = connection

    async def parts(self) -> tuple[dict[str, Part], float | None]:
        """Return the state of every part and, if one is away, when to ask again in seconds."""
        outcomes = await asyncio.gather(*map(_outcome, self._checks.values()))
        parts: dict[str, Part] = {}
        waits: dict[str, float] = {}
        for name, (reason, wait) in zip(self._checks, outcomes, strict=True):
            parts[name] = Part(ready=reason is None, reason=reason)
            if reason is not None:
                waits[name] = wait
        if self._connection.shared:
            # As of the last call, so that a probe need not wait for a Redis that hangs.
            reason = self._connection.problem
            parts["redis"] = Part(ready=reason is None, reason=reason)
            self._metrics.ready.labels("redis").set(reason is None)
        if waits.keys() == {"bank"} and not await self._draws():
            waits = {}
        for name in self._checks:
            self._metrics.ready.labels(name).set(name not in waits)
        return parts, max(waits.values(), default=None)

    async def _draws(self) -> bool:
        """Whether the default model draws from a bank, as far as can be said now."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return (await self._resolver.model(None)).condition == "snippet"
        except (TimeoutError, GmemError):
            return True


async def _outcome(check: Callable[[], Awaitable[None]]) -> tuple[str | None, float]:
    """Return why the part is not ready, and when to ask again."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await check()
    except TimeoutError:
        return f"does not answer within {TIMEOUT_SECONDS:.0f} s", TIMEOUT_SECONDS
    except GmemError as error:
        return error.detail, error.retry_after_seconds or 1.0
    return None, 0.0
