"""The bank in this process: a bank source without a network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, CollectorRegistry

from gmem_bank.host import BankHost
from gmem_bank.index import pin_threads
from gmem_bank.service import BankService
from gmem_shared.announcements import announcing_store
from gmem_shared.bank_messages import split
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from gmem_shared.types import BankInfo, DrawSpec, Neighbours, Snippets

Result = TypeVar("Result")

INLINE_ROWS = 16
"""Drawn at once: a thread would take longer to begin."""


class LocalBank:
    """Serves banks straight from their mapped files.

    The work runs on a bounded pool of threads, so the event loop does not wait for a disk, and a
    search uses one core. Draws of a few rows of an open version are the exception: a page or two
    that is not in memory is soon read.

    Args:
        store: Where the versions are.
        settings: Limits, number of threads, poll interval.
        registry: Where the metrics live.
    """

    def __init__(self, store: Store, settings: Settings, registry: CollectorRegistry) -> None:
        self.host = BankHost(
            store,
            poll_seconds=settings.store.poll_seconds,
            max_open_versions=settings.bank.max_open_versions,
            registry=registry,
            holder=f"bank-{socket.gethostname()}-{uuid4().hex[:12]}",
            redis=settings.redis,
        )
        self.service = BankService(self.host, max_rows=settings.bank.max_rows, registry=registry)
        self._pool = ThreadPoolExecutor(
            settings.bank.workers, thread_name_prefix="bank", initializer=pin_threads
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalBank:
        """Build the source; opens nothing yet."""
        return cls(announcing_store(settings), settings, REGISTRY)

    async def start(self) -> None:
        """Begin to follow the aliases."""
        self.host.start()

    async def close(self) -> None:
        """Stop following the aliases; requests in flight end first."""
        await asyncio.to_thread(self.host.close)
        await asyncio.to_thread(self._pool.shutdown)

    async def check(self) -> None:
        """Return when a bank can be served; raise `NotReadyError` with the reason otherwise."""
        self.host.check()

    async def banks(self) -> list[BankInfo]:
        """Describe the default version of every bank in the store."""
        return await self.run(self.service.banks)

    async def describe(self, bank: str) -> BankInfo:
        """Describe one bank version."""
        return await self.run(self.service.describe, bank)

    async def draw(self, bank: str, specs: Sequence[DrawSpec]) -> list[Snippets]:
        """Draw rows for several requests at once, all from one and the same version."""
        draw = partial(self.service.draw, unary=False)
        if sum(spec.count for spec in specs) <= INLINE_ROWS and self.host.is_open(bank):
            return split(*draw(bank, specs))
        return split(*await self.run(draw, bank, specs))

    async def gather(self, bank: str, rows: Sequence[int]) -> Snippets:
        """Return the named rows in the order asked for."""
        return await self.run(partial(self.service.gather, unary=False), bank, rows)

    async def search(
        self,
        bank: str,
        queries: NDArray[np.float32],
        count: int,
        labels: Sequence[int] | None = None,
    ) -> Neighbours:
        """Return the ``count`` rows most similar to each query, float32 ``(q, d)``."""
        return await self.run(self.service.search, bank, queries, count, labels)

    async def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Call a blocking function of the service on the pool."""
        call = partial(copy_context().run, function, *args)  # log lines say for whom it is
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
