"""A published version, as the log records it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from gmem_shared.store.manifest import Manifest
from gmem_shared.store.records import Record
from gmem_shared.types import Kind, VersionRef


class LogRecord(Record):
    """The commit of one version; the only place that knows when it was published.

    ``parent`` is the newest sequence number before it, 0 for none. ``publish_id`` lets a
    publisher that lost the reply recognise its own commit.
    """

    seq: int
    digest: str
    parent: int
    publish_id: str
    message: str
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """A published version. Its manifest is read, and checked against the digest, when needed."""

    kind: Kind
    name: str
    seq: int
    digest: str
    parent: int
    publish_id: str
    message: str
    published_at: datetime
    load_manifest: Callable[[str], Manifest] = field(repr=False, compare=False)

    @property
    def ref(self) -> VersionRef:
        """Name, sequence number and digest."""
        return VersionRef(self.name, self.seq, self.digest)

    @property
    def manifest(self) -> Manifest:
        """Files and metadata; raises `CorruptVersionError`."""
        return self.load_manifest(self.digest)
