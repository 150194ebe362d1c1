"""Aliases: names that move. Each move is one more record, so the history is never lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

import structlog

from gmem_shared.errors import AliasConflictError, UnknownAliasError
from gmem_shared.store.layout import Layout, is_alias
from gmem_shared.store.objects import Objects
from gmem_shared.store.records import Journal, Record
from gmem_shared.store.version import Version

_log = structlog.get_logger(__name__)


class AliasRecord(Record):
    """One move of an alias.

    ``restores`` is the generation that a rollback went back to; ``id`` makes each record
    unique, so that a writer recognises its own after a lost reply.
    """

    alias: str
    generation: int
    seq: int
    digest: str
    reason: str
    at: datetime
    restores: int | None = None
    id: str

    @property
    def origin(self) -> int:
        """The generation that first made this choice."""
        return self.restores or self.generation


class Aliases:
    """The aliases of one bank or model. Thread-safe.

    Args:
        moved: Called after each move.
    """

    def __init__(
        self,
        objects: Objects,
        layout: Layout,
        clock: Callable[[], datetime],
        moved: Callable[[], None],
    ) -> None:
        self._objects = objects
        self._layout = layout
        self._clock = clock
        self._moved = moved
        self._journals: dict[str, Journal[AliasRecord]] = {}

    def names(self) -> list[str]:
        """List the aliases."""
        folders = self._objects.folders(self._layout.aliases)
        return [name for name in folders if is_alias(name) and self._journal(name).newest()]

    def current(self, alias: str) -> AliasRecord:
        """Return where an alias points; raises `UnknownAliasError`."""
        journal = self._journal(alias)
        newest = journal.newest()
        if not newest:
            raise UnknownAliasError(
                f"{self._layout.root} has no alias {alias!r}, it has {self.names()}"
            )
        return journal.read(newest)

    def history(self, alias: str) -> list[AliasRecord]:
        """Return all moves of an alias, oldest first; raises `UnknownAliasError`."""
        self.current(alias)
        return self._journal(alias).read_all()

    def move(
        self,
        alias: str,
        version: Version,
        reason: str,
        expected_generation: int | None,
        restores: int | None = None,
    ) -> AliasRecord:
        """Append a move; raises `AliasConflictError` if the alias is not where it is expected."""
        journal = self._journal(alias)
        while True:
            newest = journal.newest()
            if expected_generation not in (None, newest):
                raise AliasConflictError(
                    f"expected alias {alias!r} of {self._layout.root} at generation "
                    f"{expected_generation}, found {newest}: look at it again, then decide"
                )
            record = AliasRecord(
                alias=alias,
                generation=newest + 1,
                seq=version.seq,
                digest=version.digest,
                reason=reason,
                at=self._clock(),
                restores=restores,
                id=uuid4().hex,
            )
            if journal.create(record.generation, record):
                _log.info(
                    "store.alias.moved",
                    repository=self._layout.root,
                    alias=alias,
                    generation=record.generation,
                    seq=record.seq,
                )
                self._moved()
                return record

    def before(self, alias: str) -> tuple[AliasRecord, AliasRecord]:
        """Return the current move and the last one before it that chose another version.

        Repeated rollbacks walk further back, not to and fro.

        Raises:
            AliasConflictError: There is nothing to go back to.
        """
        history = self.history(alias)
        current = history[-1]
        for record in reversed(history[: current.origin - 1]):
            if record.digest != current.digest:
                return current, record
        raise AliasConflictError(
            f"alias {alias!r} of {self._layout.root} never pointed to another version before "
            f"version {current.seq}: nothing to roll back to"
        )

    def _journal(self, alias: str) -> Journal[AliasRecord]:
        folder = self._layout.alias(alias)
        return self._journals.setdefault(alias, Journal(self._objects, folder, AliasRecord))
