"""Garbage collection: announce, wait, look again, delete.

``docs/formats/store.md`` argues why no live version can be hit. A version dies as it was born,
by one log record: that goes first, so nobody ever finds a version that is half deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby

import structlog

from gmem_shared.errors import InvalidRequestError
from gmem_shared.store.objects import ObjectInfo
from gmem_shared.store.shelf import Shelf
from gmem_shared.store.version import LogRecord

_log = structlog.get_logger(__name__)

_BATCH = 500
_ORDER = ("log", "manifests", "blobs", "aliases", "leases", "gc")


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays, and how long a collection takes.

    Attributes:
        versions: The newest so many versions stay; at least 1, so no number is used again.
        alias_targets: Per alias, the last so many targets stay; at least 1.
        grace: Nothing younger is deleted; longer than the longest publish.
        settle: Wait between announcing and deleting; longer than the last step of a publish.
        window: Deletions that did not fit into this time are left to the next collection.
    """

    versions: int = 3
    alias_targets: int = 3
    grace: timedelta = timedelta(days=7)
    settle: timedelta = timedelta(minutes=5)
    window: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        if self.versions < 1 or self.alias_targets < 1:
            raise InvalidRequestError(
                f"expected to keep at least 1 version and 1 target per alias, "
                f"found {self.versions} and {self.alias_targets}"
            )


class Collector:
    """Deletes what nothing refers to. One collection of a bank or model runs at a time."""

    def __init__(self, shelf: Shelf, retention: Retention) -> None:
        self._shelf = shelf
        self._retention = retention

    def garbage(self) -> list[ObjectInfo]:
        """Return what may be deleted now, in the order of deletion."""
        # Objects first, roots second: whatever is made live meanwhile counts as live.
        listed = self._shelf.objects.scan(self._shelf.layout.root)
        oldest_kept = self._shelf.clock() - self._retention.grace
        old = [info for info in listed if info.modified <= oldest_kept]
        live = self._live({info.path for info in listed}, {info.path for info in old})
        return sorted(
            (info for info in old if info.path not in live and self._folder(info) in _ORDER),
            key=lambda info: _ORDER.index(self._folder(info)),
        )

    def collect(self, sleep: Callable[[float], None]) -> list[ObjectInfo]:
        """Delete the garbage and return it; ``sleep`` waits for so many seconds.

        Raises:
            ConflictError: Another collection is running.
            CorruptVersionError: A live manifest or a record cannot be read, so what it refers
                to is not known; nothing is deleted.
        """
        announced = self.garbage()
        if not announced:
            return []
        plan = self._shelf.plans.announce(
            [info.path for info in announced], self._retention.settle, self._retention.window
        )
        sleep(self._retention.settle.total_seconds())
        unchanged = set(announced)
        still_garbage = [info for info in self.garbage() if info in unchanged]
        deleted = []
        for batch in self._batches(still_garbage):
            if self._shelf.clock() >= plan.sweep_until:
                break
            self._shelf.objects.delete([info.path for info in batch])
            deleted += batch
        self._shelf.plans.finish(plan)
        _log.info(
            "store.garbage.deleted",
            repository=self._shelf.layout.root,
            objects=len(deleted),
            bytes=sum(info.size for info in deleted),
        )
        return deleted

    def _live(self, listed: set[str], old: set[str]) -> set[str]:
        """Return every path that must stay whatever its age."""
        shelf = self._shelf
        leases = shelf.leases.in_force()
        records = self._live_records(old, {d for lease in leases.values() for d in lease.digests})
        live = {shelf.plans.newest_path, *leases, *(shelf.log.path(r.seq) for r in records)}
        live |= {path for path in listed if shelf.layout.is_alias_record(path)}
        digests = {record.digest for record in records}
        live |= {path for path in listed if shelf.layout.signed_digest(path) in digests}
        return live.union(*(shelf.paths_of(digest) for digest in digests))

    def _live_records(self, old: set[str], leased: set[str]) -> list[LogRecord]:
        shelf, keep = self._shelf, self._retention
        records = shelf.log.read_all()
        wanted = {record.seq for record in records[-keep.versions :]}
        for alias in shelf.aliases.names():
            history = shelf.aliases.history(alias)
            wanted |= {record.seq for record in history[-keep.alias_targets :]}
        newest_by_digest = {record.digest: record.seq for record in records}
        wanted |= {newest_by_digest[digest] for digest in leased & newest_by_digest.keys()}
        return [
            record
            for record in records
            if record.seq in wanted or shelf.log.path(record.seq) not in old
        ]

    def _folder(self, info: ObjectInfo) -> str:
        return info.path.removeprefix(f"{self._shelf.layout.root}/").partition("/")[0]

    def _batches(self, garbage: list[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
        """Cut into single requests, none of which spans two steps of the order."""
        for _, step in groupby(garbage, key=self._folder):
            infos = list(step)
            yield from (infos[i : i + _BATCH] for i in range(0, len(infos), _BATCH))
