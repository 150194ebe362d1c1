"""Everything recorded about one bank or model, as the parts of a repository share it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gmem_shared.errors import (
    CorruptVersionError,
    NotFoundError,
    UnknownBankError,
    UnknownModelError,
    UnknownVersionError,
)
from gmem_shared.store.aliases import Aliases
from gmem_shared.store.layout import Layout
from gmem_shared.store.leases import Leases
from gmem_shared.store.manifest import Manifest
from gmem_shared.store.objects import Objects
from gmem_shared.store.plans import Plans
from gmem_shared.store.records import Journal
from gmem_shared.store.version import LogRecord

Clock = Callable[[], datetime]


class Shelf:
    """The log, aliases, leases, plans and manifests of one bank or model. Thread-safe."""

    def __init__(
        self, objects: Objects, layout: Layout, clock: Clock, moved: Callable[[], None]
    ) -> None:
        self.objects = objects
        self.layout = layout
        self.clock = clock
        self.log = Journal(objects, layout.log, LogRecord)
        self.aliases = Aliases(objects, layout, clock, moved)
        self.leases = Leases(objects, layout, clock)
        self.plans = Plans(objects, layout, clock)
        self._manifests: dict[str, Manifest] = {}

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest, checked against its digest; raises `CorruptVersionError`."""
        if digest not in self._manifests:
            path = self.layout.manifest(digest)
            try:
                data = self.objects.read(path)
            except NotFoundError as error:
                raise CorruptVersionError(f"the manifest {path} is missing") from error
            manifest = Manifest.from_bytes(data, digest, path)
            if (manifest.kind, manifest.name) != (self.layout.kind, self.layout.name):
                raise CorruptVersionError(
                    f"the manifest {path} belongs to {manifest.kind}/{manifest.name}"
                )
            self._manifests[digest] = manifest
        return self._manifests[digest]

    def paths_of(self, digest: str) -> set[str]:
        """Return the paths of a version's manifest and blobs."""
        entries = self.manifest(digest).files.values()
        return {self.layout.manifest(digest), *(self.layout.blob(e.sha256) for e in entries)}

    def unknown(self, selector: object) -> NotFoundError:
        """Describe a version that does not exist, or a bank or model that has none."""
        root, numbers = self.layout.root, self.log.numbers()
        if numbers:
            return UnknownVersionError(
                f"expected a version of {root}, found {selector!r:.100}: "
                f"it has {numbers[0]} to {numbers[-1]} and the aliases {self.aliases.names()}"
            )
        error = UnknownBankError if self.layout.kind == "banks" else UnknownModelError
        return error(
            f"expected a published {root}, found no version of it; "
            "check the name, or publish it first"
        )
