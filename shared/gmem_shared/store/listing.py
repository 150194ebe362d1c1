"""What a store holds, for people."""

from __future__ import annotations

from rich.table import Table

from gmem_shared.store.store import Store
from gmem_shared.types import Kind


def listing(store: Store, kind: Kind) -> Table:
    """Return a table of the banks or models of a store and where their aliases point."""
    table = Table(kind.removesuffix("s"), "versions", "aliases")
    for name in store.names(kind):
        repository = store.repository(kind, name)
        aliases = [f"{alias}={record.seq}" for alias, record in repository.aliases().items()]
        table.add_row(name, str(len(repository.versions())), ", ".join(aliases))
    return table
