"""Opened bank versions: each opened once, kept while needed, refused when corrupt."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from gmem_bank.index import Searcher
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import INDEX, open_bank
from gmem_shared.errors import (
    CorruptVersionError,
    GmemError,
    NotReadyError,
    UntrustedVersionError,
    copy_of,
)
from gmem_shared.store import Repository, Version
from gmem_shared.types import VersionRef

_OPEN_WAIT_SECONDS = 5.0
_REFUSAL_SECONDS = 30.0
REFUSALS = (CorruptVersionError, UntrustedVersionError)
"""What is wrong with the version itself."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Snapshot:
    """Everything that answers requests about one version.

    A request takes one snapshot and uses nothing else, so it never mixes versions; the mapping
    goes when the last request that holds it ends.
    """

    data: BankData
    searcher: Searcher

    @property
    def version(self) -> VersionRef:
        """The version it shows."""
        return self.data.version


def open_snapshot(
    repository: Repository, version: Version, *, cores: int | None = None
) -> Snapshot:
    """Verify a version, on all cores by default, and map it; raises `CorruptVersionError`."""
    opened = repository.open(version, cores=cores)
    data = open_bank(opened)
    if INDEX not in version.manifest.files:
        return Snapshot(data, Searcher(data))
    metadata: Mapping[str, Any] = version.manifest.metadata
    effort = metadata.get("index", {}).get("effort")
    return Snapshot(data, Searcher(data, opened.path(INDEX), effort=effort))


class SnapshotCache:
    """The open snapshots of a process. Thread-safe.

    Pinned versions stay; of the others the ``max_unpinned`` used last. A version is opened by the
    first thread that asks, others wait for it. A refused one is not read again for a while: to
    verify a corrupt one costs as much as a good one.

    Args:
        open_version: Opens a version of a bank; may raise.
        max_unpinned: How many versions to keep besides the pinned ones.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        open_version: Callable[[Version], Snapshot],
        max_unpinned: int,
        clock: Callable[[], float],
    ) -> None:
        self._open_version = open_version
        self._max_unpinned = max_unpinned
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[VersionRef, Snapshot] = OrderedDict()
        self._opening: dict[VersionRef, Future[Snapshot]] = {}
        self._refused: dict[VersionRef, tuple[GmemError, float]] = {}
        self._pinned: frozenset[VersionRef] = frozenset()
        self._alive: WeakSet[Snapshot] = WeakSet()

    def get(self, version: Version) -> Snapshot:
        """Return the snapshot of a version, opening it if need be.

        Raises:
            CorruptVersionError: Its files are not the published ones.
            UntrustedVersionError: No trusted key signed it.
            GmemError: It cannot be opened; those who waited for it are told the same.
            NotReadyError: Another thread is still opening it.
        """
        ref = version.ref
        with self._lock:
            if ref in self._open:
                self._open.move_to_end(ref)
                return self._open[ref]
            refusal, until = self._refused.get(ref, (None, 0.0))
            if refusal is not None and self._clock() < until:
                again = copy_of(refusal)
                again.retry_after_seconds = _REFUSAL_SECONDS
                raise again
            opening = self._opening.get(ref)
            if opening is None:
                self._opening[ref] = Future()
        return self._wait(ref, opening) if opening else self._open_now(version)

    def find(self, name: str, selector: str) -> Snapshot | None:
        """Return an open snapshot by sequence number or digest, without asking the store."""
        with self._lock:
            for ref in self._open:
                if ref.name == name and selector in (str(ref.seq), ref.digest):
                    self._open.move_to_end(ref)
                    return self._open[ref]
        return None

    def pin(self, refs: Collection[VersionRef]) -> None:
        """Keep exactly these versions whatever else is asked for."""
        with self._lock:
            self._pinned = frozenset(refs)
            self._evict()

    def versions(self) -> list[VersionRef]:
        """List the versions kept open."""
        with self._lock:
            return list(self._open)

    def count_alive(self) -> int:
        """Count mapped versions, those only kept by a request included."""
        return len(self._alive)

    def _open_now(self, version: Version) -> Snapshot:
        opening = self._opening[version.ref]
        try:
            snapshot = self._open_version(version)
            self._add(snapshot)
            opening.set_result(snapshot)
        except GmemError as error:
            if isinstance(error, REFUSALS):
                with self._lock:
                    self._refused[version.ref] = (error, self._clock() + _REFUSAL_SECONDS)
            opening.set_exception(error)
            raise
        else:
            return snapshot
        finally:
            with self._lock:
                del self._opening[version.ref]
            opening.cancel()  # wakes those who wait; without effect once there is an outcome

    def _add(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._refused.pop(snapshot.version, None)
            self._open[snapshot.version] = snapshot
            self._alive.add(snapshot)
            self._evict()

    def _evict(self) -> None:
        unpinned = [ref for ref in self._open if ref not in self._pinned]
        for ref in unpinned[: max(0, len(unpinned) - self._max_unpinned)]:
            del self._open[ref]

    def _wait(self, ref: VersionRef, opening: Future[Snapshot]) -> Snapshot:
        try:
            return opening.result(timeout=_OPEN_WAIT_SECONDS)
        except GmemError as error:
            raise copy_of(error) from error
        except (TimeoutError, CancelledError) as error:
            raise NotReadyError(
                f"bank version {ref} is being opened; ask again", retry_after_seconds=1.0
            ) from error
