"""How much private memory an opened bank version costs: ``python -m benchmarks.banks.opening``."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import numpy as np
import typer

from gmem_bank.snapshots import Snapshot, open_snapshot
from gmem_shared.draw import draw_rows
from gmem_shared.store import Store
from gmem_shared.types import DrawSpec


def private_bytes() -> int:
    """Return what this process would give back at its end: pages that are its own, not a file's."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(1024 * int(kb) for kb in re.findall(r"^(?:Private_Dirty|Swap):\s+(\d+)", text, re.M))


def main(store: str, bank: str) -> None:
    """Open the newest version, use it a little, and print what that took as JSON."""
    _open(store, bank, used=False)  # whatever is loaded once for any bank
    gc.collect()
    before = private_bytes()
    snapshot, size = _open(store, bank, used=True)
    gc.collect()
    print(
        json.dumps({"private": private_bytes() - before, "size": size, "rows": len(snapshot.data)})
    )


def _open(store: str, bank: str, *, used: bool) -> tuple[Snapshot, int]:
    repository = Store.from_url(store, cache_dir=Path(store) / "cache").repository("banks", bank)
    version = repository.latest()
    snapshot = open_snapshot(repository, version)
    if used:
        for seed in range(100):
            snapshot.data.take(draw_rows(snapshot.data, [DrawSpec(256, seed)]))
        queries = snapshot.data.vectors[:: len(snapshot.data) // 100].astype(np.float32)
        for query in queries:
            snapshot.searcher.search(query[np.newaxis], 10)
    return snapshot, sum(entry.size for entry in version.manifest.files.values())


if __name__ == "__main__":
    typer.run(main)
