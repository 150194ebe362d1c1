"""milvus-lite: Milvus's client over an embedded engine on faiss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bank_worker import serve
from pymilvus import DataType, MilvusClient

NAME = "bank"
EFFORT = 128
_BATCH = 2048


class MilvusLite:
    """A graph with as many links as ours."""

    def load(self, folder: Path, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Insert and index once."""
        self.client = MilvusClient(uri=str(folder / "milvus.db"))
        if self.client.has_collection(NAME):
            self.client.load_collection(NAME)
            return
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("label", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = self.client.prepare_index_params()
        graph = {"M": 32, "efConstruction": 40}
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params=graph)
        self.client.create_collection(NAME, schema=schema, index_params=index)
        for start in range(0, len(vectors), _BATCH):
            rows = range(start, min(start + _BATCH, len(vectors)))
            block = vectors[rows.start : rows.stop].astype(np.float32).tolist()
            classes = labels[rows.start : rows.stop].tolist()
            records = zip(rows, classes, block, strict=True)
            self.client.insert(NAME, [{"id": i, "label": c, "vector": v} for i, c, v in records])
        self.client.flush(NAME)
        self.client.load_collection(NAME)

    def fetch(self, rows: list[int]) -> int:
        """Return how many vectors came."""
        found = self.client.get(NAME, ids=rows, output_fields=["vector"])
        return len(np.array([row["vector"] for row in found], np.float32))

    def search(self, query: np.ndarray, count: int) -> list[int]:
        """Return the most similar rows."""
        return self._search(query, count, "")

    def search_class(self, query: np.ndarray, count: int, label: int) -> list[int]:
        """Return the most similar rows of a class."""
        return self._search(query, count, f"label == {label}")

    def _search(self, query: np.ndarray, count: int, condition: str) -> list[int]:
        effort = {"params": {"ef": EFFORT}}
        [found] = self.client.search(
            NAME, data=[query.tolist()], limit=count, filter=condition, search_params=effort
        )
        return [hit["id"] for hit in found]


serve(MilvusLite())
