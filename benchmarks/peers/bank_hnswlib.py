"""hnswlib: a graph in memory, float32."""

from __future__ import annotations

from pathlib import Path

import hnswlib
import numpy as np
from bank_worker import serve

LINKS, BUILD_EFFORT, EFFORT = 32, 40, 128


class Hnswlib:
    """One thread, filters as a Python function."""

    def load(self, folder: Path, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Build the graph once."""
        self.labels = labels
        self.index = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        saved = folder / "graph"
        if saved.exists():
            self.index.load_index(str(saved))
        else:
            self.index.init_index(len(vectors), M=LINKS, ef_construction=BUILD_EFFORT)
            for start in range(0, len(vectors), 16384):
                self.index.add_items(vectors[start : start + 16384].astype(np.float32))
            self.index.save_index(str(saved))
        self.index.set_num_threads(1)
        self.index.set_ef(EFFORT)

    def fetch(self, rows: list[int]) -> int:
        """Return how many vectors came."""
        return len(self.index.get_items(rows))

    def search(self, query: np.ndarray, count: int) -> list[int]:
        """Return the most similar rows."""
        return self.index.knn_query(query, count)[0][0].tolist()

    def search_class(self, query: np.ndarray, count: int, label: int) -> list[int]:
        """Return the most similar rows of a class."""
        labels = self.labels
        found = self.index.knn_query(query, count, filter=lambda row: labels[row] == label)
        return found[0][0].tolist()


serve(Hnswlib())
