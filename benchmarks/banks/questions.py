"""A published bank, what it is asked, and the true answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.banks.features import ROWS_PER_CLASS, generated_bank
from gmem_bank.index import Searcher, exact_search
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import INDEX, SNIPPETS, open_bank
from gmem_shared.store import Store

DRAWN = 256
NEIGHBOURS = 10

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Bank:
    """A published bank, opened, and what it is asked.

    Attributes:
        snippets, index: Its files.
        effort: What the build of the index measured.
        queries: float32 ``(q, d)`` of length 1: rows with noise, so that none is in the bank.
        labels: For each query a class to search in, mostly not its own.
    """

    name: str
    data: BankData
    snippets: Path
    index: Path
    effort: int
    queries: Vectors
    labels: list[int]

    @classmethod
    def of(cls, store: Store, rows: int, queries: int = 64) -> Bank:
        """Publish and open a bank of so many rows."""
        repository, version = generated_bank(store, rows)
        opened = repository.open(version)
        data = open_bank(opened)
        rng = np.random.default_rng(rows)
        near = data.vectors[rng.integers(0, rows, queries)].astype(np.float32)
        near += rng.normal(scale=0.05, size=near.shape).astype(np.float32)
        metadata: Mapping[str, Any] = version.manifest.metadata
        return cls(
            name=version.name,
            data=data,
            snippets=opened.path(SNIPPETS),
            index=opened.path(INDEX),
            effort=metadata["index"]["effort"],
            queries=near / np.linalg.norm(near, axis=1, keepdims=True),
            labels=rng.integers(0, len(data.classes), queries).tolist(),
        )

    @property
    def size(self) -> str:
        """The number of rows, for a title."""
        return f"{len(self.data):,} rows"

    def searcher(self) -> Searcher:
        """Search it as the service does."""
        return Searcher(self.data, self.index, effort=self.effort)

    def random_rows(self, repetition: int, calls: int) -> list[Rows]:
        """Return row numbers for each call of a repetition."""
        rng = np.random.default_rng([repetition + 1])
        return [rng.integers(0, len(self.data), DRAWN) for _ in range(calls)]

    def rows_of_classes(self, repetition: int, calls: int) -> list[list[int]]:
        """Return for each call distinct rows of one class."""
        rng = np.random.default_rng([repetition + 1])
        starts = rng.integers(0, len(self.data.classes), calls) * ROWS_PER_CLASS
        return [(s + rng.permutation(ROWS_PER_CLASS)[:DRAWN]).tolist() for s in starts]

    def neighbours(self) -> Rows:
        """Return the true neighbours of every query among all rows."""
        return exact_search(self.data, self.queries, NEIGHBOURS, [(0, len(self.data))]).rows

    def neighbours_in_class(self) -> Rows:
        """Return those within the query's class, by numpy in float64, not by the bank's search."""
        found = []
        for query, label in zip(self.queries, self.labels, strict=True):
            begin, end = self.data.class_rows(label)
            vectors = self.data.vectors[begin:end].astype(np.float64)
            cosines = vectors @ query / np.linalg.norm(vectors, axis=1)
            found.append(begin + np.argsort(-cosines)[:NEIGHBOURS])
        return np.vstack(found)


def recall(truth: Rows, found: Sequence[Sequence[int]] | Rows) -> float:
    """Return the share of the true neighbours that were found."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(truth, found, strict=True)]
    return sum(hits) / truth.size
