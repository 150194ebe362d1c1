"""Qdrant in local mode: exact, in Python, on one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bank_worker import serve
from qdrant_client import QdrantClient, models

NAME = "bank"


class Qdrant:
    """The client that would also talk to a server."""

    def load(self, folder: Path, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Upload once."""
        self.client = QdrantClient(path=str(folder))
        if self.client.collection_exists(NAME) and self.client.count(NAME).count == len(vectors):
            return
        self.client.delete_collection(NAME)
        size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
        self.client.create_collection(NAME, vectors_config=size)
        self.client.upload_collection(
            NAME,
            vectors=vectors.astype(np.float32),
            payload=[{"label": label} for label in labels.tolist()],
            ids=range(len(vectors)),
        )

    def fetch(self, rows: list[int]) -> int:
        """Return how many vectors came."""
        points = self.client.retrieve(NAME, rows, with_payload=False, with_vectors=True)
        return len(np.array([point.vector for point in points], np.float32))

    def draw_class(self, count: int, label: int) -> int:
        """Let Qdrant choose at random among a class; it takes no seed."""
        points = self.client.query_points(
            NAME,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            query_filter=_of(label),
            limit=count,
            with_payload=False,
            with_vectors=True,
        ).points
        return len(np.array([point.vector for point in points], np.float32))

    def search(self, query: np.ndarray, count: int) -> list[int]:
        """Return the most similar rows."""
        found = self.client.query_points(NAME, query=query, limit=count, with_payload=False)
        return [point.id for point in found.points]

    def search_class(self, query: np.ndarray, count: int, label: int) -> list[int]:
        """Return the most similar rows of a class."""
        found = self.client.query_points(
            NAME, query=query, query_filter=_of(label), limit=count, with_payload=False
        )
        return [point.id for point in found.points]


def _of(label: int) -> models.Filter:
    condition = models.FieldCondition(key="label", match=models.MatchValue(value=label))
    return models.Filter(must=[condition])


serve(Qdrant())
