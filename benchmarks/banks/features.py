"""Generated snippets that are shaped like an encoder's: low-rank plus noise, in classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.bank_format import write_bank
from gmem_shared.bank_rows import BLOCK_ROWS, Progress
from gmem_shared.store import Repository, Version
from gmem_shared.types import ClassInfo

CLASSES = 1000
DIMENSION = 768
_RANK = 64
_NOISE = 0.05


class GeneratedRows:
    """A float16 matrix ``(rows, 768)`` that is made block by block, the same one every time.

    A row is its class's centre plus a deviation, both in one subspace of 64 directions whose
    spread falls like 1/sqrt(k), plus noise in all directions. Of the variance, about half tells
    the classes apart.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, rows: int, seed: int = 0) -> None:
        rng = np.random.default_rng([seed])
        self.shape = (rows, DIMENSION)
        self.labels = (np.arange(rows) * CLASSES // rows).astype(np.int32)
        self._seed = seed
        spread = 1 / np.sqrt(np.arange(1, _RANK + 1))
        self._spread = spread.astype(np.float32)
        self._centres = (rng.standard_normal((CLASSES, _RANK)) * spread).astype(np.float32)
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


def publish_rows(repository: Repository, rows: int, folder: Path, progress: Progress) -> Version:
    """Publish a bank of generated rows through the real store; ``folder`` is for its files."""
    features = GeneratedRows(rows)
    files, metadata = write_bank(
        folder,
        vectors=features,
        labels=features.labels,
        source_ids=np.arange(rows),
        classes=[ClassInfo(number, f"class {number}") for number in range(CLASSES)],
        encoder="generated/low-rank-plus-noise",
        progress=progress,
    )
    return repository.publish(files, metadata=metadata, message=f"{rows} generated rows")
