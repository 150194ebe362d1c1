"""Leases: what a running process keeps from the garbage collector."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from gmem_shared.errors import NotFoundError
from gmem_shared.store.layout import Layout
from gmem_shared.store.objects import Objects
from gmem_shared.store.records import Record


class Lease(Record):
    """One holder's versions; only the holder writes it, and renews it before it expires."""

    holder: str
    digests: tuple[str, ...]
    expires_at: datetime


class Leases:
    """The leases of one bank or model."""

    def __init__(self, objects: Objects, layout: Layout, clock: Callable[[], datetime]) -> None:
        self._objects = objects
        self._layout = layout
        self._clock = clock

    def renew(self, holder: str, digests: Iterable[str], ttl: timedelta) -> Lease:
        """Write a holder's lease, replacing its earlier one."""
        lease = Lease(holder=holder, digests=tuple(sorted(digests)), expires_at=self._clock() + ttl)
        path = self._layout.lease(holder)
        self._objects.write(path, lease.to_bytes(path))
        return lease

    def release(self, holder: str) -> None:
        """Give a holder's lease back."""
        self._objects.delete([self._layout.lease(holder)])

    def in_force(self) -> dict[str, Lease]:
        """Return the leases that have not expired, by path."""
        leases = {}
        for info in self._objects.scan(self._layout.leases):
            if not info.path.endswith(".json"):  # left by a holder killed while it wrote
                continue
            with suppress(NotFoundError):  # released since the listing
                leases[info.path] = Lease.from_bytes(self._objects.read(info.path), info.path)
        return {path: lease for path, lease in leases.items() if self._clock() < lease.expires_at}
