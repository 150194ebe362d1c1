"""Which engines run in this process, and under which references they are reached."""

from __future__ import annotations

import threading
from collections import OrderedDict

from gmem_model.engine.engine import Engine
from gmem_shared.types import Reference, VersionRef


class Fleet:
    """Engines by version. Thread-safe; nothing here blocks on work.

    An engine is kept while a followed reference leads to it. Besides those, the ``max_demanded``
    versions asked for most recently by number or digest are. Others retire: they finish what they
    accepted, then their thread ends.
    """

    def __init__(self, max_demanded: int) -> None:
        self._lock = threading.Lock()
        self._max_demanded = max_demanded
        self._engines: dict[VersionRef, Engine] = {}
        self._followed: dict[Reference, VersionRef] = {}
        self._demanded: OrderedDict[Reference, VersionRef] = OrderedDict()
        self._retired: list[Engine] = []

    def find(self, reference: Reference) -> Engine | None:
        """Return the engine that a reference leads to, if it is loaded."""
        with self._lock:
            version = self._followed.get(reference) or self._demanded.get(reference)
            if reference in self._demanded:
                self._demanded.move_to_end(reference)
            return self._engines.get(version) if version else None

    def get(self, version: VersionRef) -> Engine | None:
        """Return the engine of a version, if it is loaded."""
        with self._lock:
            return self._engines.get(version)

    def put(self, reference: Reference, engine: Engine, *, follow: bool) -> None:
        """Have a reference lead to a started engine from now on."""
        with self._lock:
            self._engines[engine.version] = engine
            (self._followed if follow else self._demanded)[reference] = engine.version
            followed = set(self._followed.values())
            recent = dict.fromkeys(reversed(self._demanded.values()))
            spare = [version for version in recent if version not in followed]
            self._retire_all_but(followed.union(spare[: self._max_demanded]))

    def followed(self) -> dict[Reference, VersionRef]:
        """Return where the followed references lead."""
        with self._lock:
            return dict(self._followed)

    def versions(self) -> list[VersionRef]:
        """Return the versions at work, without the retired."""
        with self._lock:
            return list(self._engines)

    def engines(self) -> list[Engine]:
        """Return every engine that may still have work, the retired ones included."""
        with self._lock:
            self._retired = [engine for engine in self._retired if engine.alive]
            return [*self._engines.values(), *self._retired]

    def retire_all(self) -> list[Engine]:
        """Retire every engine; return those whose threads have yet to end."""
        with self._lock:
            self._retire_all_but(set())
        return self.engines()

    def _retire_all_but(self, kept: set[VersionRef]) -> None:
        for version in self._engines.keys() - kept:
            engine = self._engines.pop(version)
            engine.retire()
            self._retired.append(engine)
        for reference in [r for r, version in self._demanded.items() if version not in kept]:
            del self._demanded[reference]
