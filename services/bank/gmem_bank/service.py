"""What the bank does, whatever the door: draw, gather, search, describe, export. Synchronous."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from gmem_bank.host import BankHost
from gmem_bank.snapshots import Snapshot
from gmem_shared import telemetry
from gmem_shared.draw import draw_rows
from gmem_shared.errors import GmemError, InvalidRequestError, OutOfRangeError, TooLargeError
from gmem_shared.rpc import UNARY_BYTES
from gmem_shared.store import AliasRecord, Version
from gmem_shared.types import BankInfo, DrawSpec, Neighbours, Reference, Snippets

MAX_NEIGHBOURS = 1000
MAX_QUERIES = 1024
PART_BYTES = 1 << 20

_ROW_OVERHEAD_BYTES = 28  # row, source id, label, weight


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """One entry of a bank's log, with the aliases that point to it."""

    version: Version
    aliases: tuple[str, ...]


class BankService:
    """Answers requests from the host's snapshots, each request from exactly one.

    Args:
        host: The live banks.
        max_rows: Most rows of one request.
        registry: Where the metrics live.
    """

    def __init__(self, host: BankHost, *, max_rows: int, registry: CollectorRegistry) -> None:
        self.host = host
        self._max_rows = max_rows
        self._counting = telemetry.Counting(registry)
        self._requests = telemetry.BANK_REQUESTS.counter(registry)
        self._seconds = telemetry.BANK_REQUEST_SECONDS.histogram(registry)
        self._rows = telemetry.BANK_ROWS.counter(registry)
        self._short_searches = telemetry.BANK_INEXACT_SEARCHES.counter(registry)

    def draw(
        self, bank: str, specs: Sequence[DrawSpec], *, unary: bool = True
    ) -> tuple[Snippets, list[int]]:
        """Draw for several requests at once.

        Args:
            bank: Where from.
            specs: What; all from one version.
            unary: Whether the answer must fit one message.

        Returns:
            All rows, one request after another, and the number of rows of each.

        Raises:
            OutOfRangeError: A spec asks for no row, or for one that cannot be drawn.
            UnknownClassError: The bank has no such class.
            TooLargeError: More rows than one answer may hold.
        """
        with self._observed("draw"):
            snapshot = self.host.resolve(bank)
            rows = self._drawn(snapshot, specs, unary=unary)
            return self._take(snapshot, rows, drawn=True), [spec.count for spec in specs]

    def stream_draw(self, bank: str, specs: Sequence[DrawSpec]) -> Iterator[Snippets]:
        """As `draw`, in parts of about 1 MiB."""
        with self._observed("stream_draw"):
            snapshot = self.host.resolve(bank)
            yield from self._parts(snapshot, self._drawn(snapshot, specs, unary=False))

    def gather(self, bank: str, rows: Sequence[int], *, unary: bool = True) -> Snippets:
        """Return the named rows in the order asked for.

        Args:
            bank: Where from.
            rows: Row numbers.
            unary: Whether the answer must fit one message.

        Raises:
            UnknownRowError: The version has no such row, or it was deleted.
            TooLargeError: More rows than one answer may hold.
        """
        with self._observed("gather"):
            snapshot = self.host.resolve(bank)
            return self._take(snapshot, self._named(snapshot, rows, unary=unary))

    def stream_gather(self, bank: str, rows: Sequence[int]) -> Iterator[Snippets]:
        """As `gather`, in parts of about 1 MiB; an unknown row ends the stream where it stands."""
        with self._observed("stream_gather"):
            snapshot = self.host.resolve(bank)
            yield from self._parts(snapshot, self._named(snapshot, rows, unary=False))

    def search(
        self,
        bank: str,
        queries: NDArray[np.float32],
        count: int,
        labels: Sequence[int] | None = None,
    ) -> Neighbours:
        """Return the ``count`` rows most similar to each query, float32 ``(q, d)``.

        No labels search all rows.

        Raises:
            InvalidRequestError: The queries do not fit the bank.
            OutOfRangeError: ``count`` is not served.
            TooLargeError: Too many queries.
            UnknownClassError: The bank has no such class.
        """
        with self._observed("search"):
            snapshot = self.host.resolve(bank)
            if not 1 <= count <= MAX_NEIGHBOURS:
                raise OutOfRangeError(f"count: expected 1 … {MAX_NEIGHBOURS}, found {count}")
            if len(queries) > MAX_QUERIES:
                raise TooLargeError(
                    f"queries: expected at most {MAX_QUERIES}, found {len(queries)}; send several "
                    f"requests"
                )
            found = snapshot.searcher.search(queries, count, labels or None)
            self._short_searches.inc(found.fell_back)
            known = found.rows >= 0
            data = snapshot.data
            return Neighbours(
                version=snapshot.version,
                rows=found.rows,
                scores=found.scores,
                labels=np.where(known, data.labels[found.rows], -1).astype(np.int32),
                source_ids=np.where(known, data.source_ids[found.rows], -1),
                exact=found.exact,
            )

    def describe(self, bank: str) -> BankInfo:
        """Describe one bank version."""
        with self._observed("describe"):
            return self.host.describe(self.host.resolve(bank))

    def banks(self) -> list[BankInfo]:
        """Describe the default version of every bank.

        Raises:
            NotReadyError: No bank can be served yet.
        """
        with self._observed("banks"):
            return self.host.banks()

    def versions(self, name: str) -> list[PublishedVersion]:
        """List the versions of a bank, oldest first."""
        with self._observed("versions"):
            repository = self.host.repository(Reference.parse(name).name)
            aliases = repository.aliases()
            return [
                PublishedVersion(
                    version,
                    tuple(sorted(a for a, record in aliases.items() if record.seq == version.seq)),
                )
                for version in repository.versions()
            ]

    def set_alias(self, name: str, alias: str, selector: str, reason: str) -> AliasRecord:
        """Point an alias to a version that can be served, and serve it at once."""
        with self._observed("set_alias"):
            return self.host.set_alias(name, alias, selector, reason)

    def export(self, bank: str) -> Iterator[Snippets]:
        """Yield every row that was not deleted, in row order, in parts of about 1 MiB."""
        with self._observed("export"):
            snapshot = self.host.resolve(bank)
            rows = np.arange(len(snapshot.data))
            yield from self._parts(snapshot, rows[~snapshot.data.tombstoned(rows)])

    def _drawn(
        self, snapshot: Snapshot, specs: Sequence[DrawSpec], *, unary: bool
    ) -> NDArray[np.int64]:
        counts = [spec.count for spec in specs]
        if not counts or min(counts) < 1:
            raise OutOfRangeError("specs: expected at least one, each with count >= 1")
        self._check_rows(snapshot, sum(counts), unary=unary)
        return draw_rows(snapshot.data, specs)

    def _named(self, snapshot: Snapshot, rows: Sequence[int], *, unary: bool) -> NDArray[np.int64]:
        self._check_rows(snapshot, len(rows), unary=unary)
        try:
            return np.fromiter(rows, np.int64, len(rows))
        except OverflowError as error:
            raise InvalidRequestError("rows: expected 64-bit integers") from error

    def _parts(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> Iterator[Snippets]:
        step = max(1, PART_BYTES // _row_bytes(snapshot))
        for start in range(0, len(rows), step):
            yield self._take(snapshot, rows[start : start + step])

    def _take(
        self, snapshot: Snapshot, rows: NDArray[np.int64], *, drawn: bool = False
    ) -> Snippets:
        snippets = snapshot.data.take(rows, drawn=drawn)
        self._counting.note(self._rows.inc, len(rows))
        return snippets

    def _check_rows(self, snapshot: Snapshot, count: int, *, unary: bool) -> None:
        limit = self._max_rows
        if unary:
            limit = min(limit, UNARY_BYTES // _row_bytes(snapshot))
        if count > limit:
            raise TooLargeError(
                f"expected at most {limit} rows of bank {snapshot.version} in one answer, "
                f"found {count}; split the request by offset, stream it (StreamDraw, "
                f"StreamGather), or use Export for a whole bank"
            )

    @contextmanager
    def _observed(self, method: str) -> Iterator[None]:
        begin, code = time.perf_counter(), "ok"
        try:
            yield
        except GmemError as error:
            code = error.code
            raise
        finally:
            self._counting.note(self._count, method, code, time.perf_counter() - begin)

    def _count(self, method: str, code: str, seconds: float) -> None:
        self._requests.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)


def _row_bytes(snapshot: Snapshot) -> int:
    """Size of one row in an answer, its vector as float32 at most."""
    return 4 * snapshot.data.dimension + _ROW_OVERHEAD_BYTES
