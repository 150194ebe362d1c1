"""Generated snippets that are shaped like an encoder's: low-rank plus noise, in classes."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gmem_bank.publishing import publish_index
from gmem_shared.bank_format import INDEX, write_bank
from gmem_shared.bank_rows import BLOCK_ROWS, Progress
from gmem_shared.progress import progress_bar
from gmem_shared.store import Repository, Store, Version
from gmem_shared.types import DEFAULT_ALIAS, ClassInfo

ROWS_PER_CLASS = 1280
"""As in ImageNet: 1.28 million rows in 1,000 classes."""
DIMENSION = 768
MIN_RECALL = 0.95

_RANK = 64
_NOISE = 0.05


class GeneratedRows:
    """A float16 matrix ``(rows, 768)`` that is made block by block, the same one every time.

    A row is its class's centre plus a deviation, both in one subspace of 64 directions whose
    spread falls like 1/sqrt(k), plus noise in all directions. Each of these three has about the
    same length.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, rows: int, seed: int = 0) -> None:
        rng = np.random.default_rng([seed])
        classes = rows // ROWS_PER_CLASS
        self.shape = (rows, DIMENSION)
        self.labels = (np.arange(rows) * classes // rows).astype(np.int32)
        self._seed = seed
        spread = 1 / np.sqrt(np.arange(1, _RANK + 1))
        self._spread = spread.astype(np.float32)
        self._centres = (rng.standard_normal((classes, _RANK)) * spread).astype(np.float32)
        basis, _ = np.linalg.qr(rng.standard_normal((DIMENSION, _RANK)))
        self._basis = np.ascontiguousarray(basis.T, np.float32)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Make one of the blocks that `write_bank` asks for."""
        begin = int(rows[0])
        assert begin % BLOCK_ROWS == 0
        assert np.array_equal(rows, np.arange(begin, begin + len(rows)))
        rng = np.random.default_rng([self._seed, begin])
        inner = rng.standard_normal((len(rows), _RANK), np.float32) * self._spread
        noise = rng.standard_normal((len(rows), DIMENSION), np.float32) * np.float32(_NOISE)
        made = (self._centres[self.labels[rows]] + inner) @ self._basis + noise
        return made.astype(self.dtype)


def generated_bank(store: Store, rows: int) -> tuple[Repository, Version]:
    """Return a bank of generated rows with an index; publish it unless the store has it."""
    repository = store.repository("banks", f"generated-{rows}")
    versions = repository.versions()
    bar = partial(progress_bar, console=Console(stderr=True))
    if not versions:
        with tempfile.TemporaryDirectory() as folder, bar(f"{rows} rows", rows) as progress:
            versions.append(_publish(repository, rows, Path(folder), progress))
    if INDEX not in versions[-1].manifest.files:
        with bar(f"index of {rows} rows", rows) as progress:
            indexed = publish_index(
                repository,
                versions[-1],
                min_recall=MIN_RECALL,
                message="with an index",
                progress=progress,
            )
        versions.append(indexed)
    if DEFAULT_ALIAS not in repository.aliases():
        repository.set_alias(DEFAULT_ALIAS, versions[-1])
    return repository, versions[-1]


def _publish(repository: Repository, rows: int, folder: Path, progress: Progress) -> Version:
    features = GeneratedRows(rows)
    files, metadata = write_bank(
        folder,
        vectors=features,
        labels=features.labels,
        source_ids=np.arange(rows),
        classes=[ClassInfo(n, f"class {n}") for n in range(rows // ROWS_PER_CLASS)],
        encoder="generated/low-rank-plus-noise",
        progress=progress,
    )
    return repository.publish(files, metadata=metadata, message=f"{rows} generated rows")
