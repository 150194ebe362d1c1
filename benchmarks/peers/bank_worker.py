"""A peer of the bank in a process of its own: jobs and answers are lines of JSON.

The times are taken here, around the calls of the peer's own client, so that neither the pipe nor
the JSON is part of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Peer(Protocol):
    """What a peer can do; an optional job that it cannot do is missing."""

    def load(self, folder: Path, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Hold float16 ``(n, d)`` and int ``(n,)``, from ``folder`` if they are there already."""

    def fetch(self, rows: list[int]) -> int:
        """Return how many vectors came as float32 arrays of numpy, given their numbers."""

    def search(self, query: np.ndarray, count: int) -> list[int]:
        """Return the most similar rows."""

    def search_class(self, query: np.ndarray, count: int, label: int) -> list[int]:
        """Return the most similar rows of a class."""


def serve(peer: Peer) -> None:
    """Load what the first line names, then do one job per line until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is no answer
    for line in sys.stdin:
        job = json.loads(line)
        kind = job.pop("job")
        answer = _load(peer, **job) if kind == "load" else _measure(getattr(peer, kind), **job)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _load(
    peer: Peer, folder: str, path: str, offset: int, shape: list[int], labels: list[int]
) -> dict[str, Any]:
    vectors = np.memmap(path, np.float16, "r", offset, tuple(shape))
    begin = time.perf_counter()
    peer.load(Path(folder), vectors, np.array(labels))
    return {"seconds": time.perf_counter() - begin}


def _measure(call: Callable[..., Any], arguments: list[list[Any]]) -> dict[str, Any]:
    prepared = [[_as_array(value) for value in values] for values in arguments]
    seconds, found = [], []
    for values in prepared:
        begin = time.perf_counter()
        found.append(call(*values))
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds, "found": found}


def _as_array(value: Any) -> Any:
    """Return a query as an array; anything else as it is."""
    is_query = isinstance(value, list) and isinstance(value[0], float)
    return np.array(value, np.float32) if is_query else value
