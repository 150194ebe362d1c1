"""Draws from the bank: requests that arrive while a draw is in flight share the next one."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from structlog.contextvars import bound_contextvars

from gmem_generator.metrics import Metrics
from gmem_shared import tracing
from gmem_shared.errors import GmemError, OutOfRangeError, status_of
from gmem_shared.ports import BankSource
from gmem_shared.types import DrawSpec, Snippets

_EXCLUDE_ROUNDS = 16
_EXCLUDE_DRAW = 4096

_NAMED = 64
"""Most request ids that go along with a shared draw: all metadata of a call may have 8 KiB."""


class _Batch:
    def __init__(self) -> None:
        self.specs: list[DrawSpec] = []
        self.request_ids: list[str] = []
        self.answers: asyncio.Task[list[Snippets]]


class Drawer:
    """Coalesces draws per bank reference; one reference has at most one draw in flight.

    Args:
        window_seconds: How long a draw waits for company; 0 still takes what arrives together.
    """

    def __init__(self, bank: BankSource, metrics: Metrics, window_seconds: float) -> None:
        self._bank = bank
        self._metrics = metrics
        self._window_seconds = window_seconds
        self._gathering: dict[str, _Batch] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def draw(self, bank: str, spec: DrawSpec) -> Snippets:
        """Draw rows, together with whoever else wants rows of ``bank`` now."""
        if bank not in self._turns and not self._window_seconds:
            return await self._draw_alone(bank, spec)
        batch = self._gathering.get(bank)
        if batch is None:
            batch = self._gathering[bank] = _Batch()
            batch.answers = asyncio.create_task(self._answer(bank, batch))
            batch.answers.add_done_callback(_retrieve)
        place = len(batch.specs)
        batch.specs.append(spec)
        if (request_id := tracing.request_id()) is not None:
            batch.request_ids.append(request_id)
        try:
            # A request that leaves must not take its neighbours' rows with it.
            return (await asyncio.shield(batch.answers))[place]
        except GmemError as error:
            if len(batch.specs) == 1 or status_of(error).http >= 500:
                raise
        # One spec spoilt the call for all: each now answers for itself.
        return (await self._bank.draw(bank, [spec]))[0]

    async def draw_except(self, bank: str, spec: DrawSpec, exclude: frozenset[int]) -> Snippets:
        """Draw rows, leaving out excluded ones.

        They are numbers ``offset … offset+count-1`` of the others of the seed's stream, which is
        walked from its beginning.

        Raises:
            OutOfRangeError: Hardly a row is left to draw.
        """
        kept: list[int] = []
        wanted = spec.offset + spec.count
        offset, size = 0, wanted
        for _ in range(_EXCLUDE_ROUNDS):
            part = await self.draw(bank, DrawSpec(size, spec.seed, spec.labels, offset))
            kept += [row for row in part.rows.tolist() if row not in exclude]
            if len(kept) >= wanted:
                return await self._bank.gather(bank, kept[spec.offset : wanted])
            offset, size = offset + size, min(2 * size, _EXCLUDE_DRAW)
        raise OutOfRangeError(
            f"expected {wanted} rows that are not excluded, found {len(kept)} among {offset} "
            "drawn; exclude fewer",
            errors=[{"field": "memory.exclude", "message": "leaves too few rows"}],
        )

    async def _draw_alone(self, bank: str, spec: DrawSpec) -> Snippets:
        """Draw without a task of its own, while nobody else does; who comes meanwhile waits."""
        turn = self._turns[bank] = asyncio.Lock()
        async with turn:
            self._metrics.drawn(1)
            return (await self._bank.draw(bank, (spec,)))[0]

    async def _answer(self, bank: str, batch: _Batch) -> list[Snippets]:
        turn = self._turns.setdefault(bank, asyncio.Lock())
        async with turn:
            await asyncio.sleep(self._window_seconds)
            del self._gathering[bank]
            self._metrics.drawn(len(batch.specs))
            # The trace is that of who came first; the bank's log names all, as far as they fit.
            ids = ",".join(batch.request_ids[:_NAMED])
            with bound_contextvars(request_id=ids or None):
                return await self._bank.draw(bank, tuple(batch.specs))


def _retrieve(task: asyncio.Task[list[Snippets]]) -> None:
    """Look at the outcome: when all waiters have left, asyncio would report it as lost."""
    if not task.cancelled():
        task.exception()
