"""Nearest snippets by cosine similarity; the only module that imports faiss.

A search by class is exact: a class is a contiguous slice, and scanning it beats an index that has
to skip what the filter excludes (a graph finds hardly anything when the filter excludes the whole
neighbourhood of the query). So is a search of a bank up to ``EXACT_ROWS``. Over more rows an index,
when the version has one, proposes candidates; the stored vectors score them, deleted rows are
dropped, and an answer that is short then is replaced by the exact one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss as stubbed_faiss
import numpy as np
from numpy.typing import NDArray

from gmem_shared.bank_data import BankData
from gmem_shared.bank_rows import Progress
from gmem_shared.errors import CorruptVersionError, InvalidRequestError

EXACT_ROWS = 40_000
"""Banks up to this size are searched exactly although they have an index."""

faiss: Any = stubbed_faiss  # its stubs lack most of what is used here
Index = stubbed_faiss.Index

_BLOCK_ROWS = 16384
_OVERSAMPLING = 4
_FACTORY = re.compile(r"(HNSW|IVF)(\d{1,6}),(Flat|SQ8|SQfp16)")
_MIN_EF_SEARCH = 128
_LISTS_PER_PROBE = 16
_MIN_PROBES = 8
_TRAINING_ROWS = 65_536
_TRAINING_PER_LIST = 40  # faiss warns below 39
_MAX_LOOP = 1 << 33
_MAX_VECTOR_BYTES = 1 << 37

faiss.set_deserialization_loop_limit(_MAX_LOOP)
faiss.set_deserialization_vector_byte_limit(_MAX_VECTOR_BYTES)

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """``rows`` int64 and ``scores`` float32, both ``(q, k)``, best first, padded with row -1."""

    rows: Rows
    scores: Scores
    exact: bool
    fell_back: bool = False


def pin_threads() -> None:
    """Let faiss use one thread when called from this thread; its count is kept per thread."""
    faiss.omp_set_num_threads(1)


class Searcher:
    """Searches one bank version.

    Args:
        data: The version.
        index_file: Its ``index.faiss``, verified; ``None`` when the version has none.
        exact_rows: Largest bank that is always searched exactly.

    Raises:
        CorruptVersionError: The index is not one of ours, or not of this version.
    """

    def __init__(
        self, data: BankData, index_file: Path | None = None, *, exact_rows: int = EXACT_ROWS
    ) -> None:
        self._data = data
        self._exact_rows = exact_rows
        self._index = None if index_file is None else read_index(index_file, data)

    def search(self, queries: Scores, count: int, labels: Sequence[int] | None = None) -> Found:
        """Find the ``count`` most similar rows of each query, float32 ``(q, d)``.

        Raises:
            InvalidRequestError: The queries are not finite, not zero vectors of the bank's length.
            UnknownClassError: The bank has no such class.
        """
        queries = _normalized_queries(queries, self._data.dimension)
        ranges = _ranges(self._data, labels)
        if self._index is None or labels is not None or len(self._data) <= self._exact_rows:
            return exact_search(self._data, queries, count, ranges)
        found = _index_search(self._index, self._data, queries, count)
        if (found.rows[:, count - 1 :] >= 0).all():
            return found
        return replace(exact_search(self._data, queries, count, ranges), fell_back=True)


def exact_search(
    data: BankData, queries: Scores, count: int, ranges: Sequence[tuple[int, int]]
) -> Found:
    """Compare every row in ``ranges`` with every query; queries have length 1."""
    rows = np.full((len(queries), count), -1, np.int64)
    scores = np.full((len(queries), count), -np.inf, np.float32)
    for begin, end in ranges:
        for start in range(begin, end, _BLOCK_ROWS):
            block = np.arange(start, min(start + _BLOCK_ROWS, end))
            block = block[~data.tombstoned(block)]
            if not len(block):
                continue
            block_scores, positions = faiss.knn(
                queries, _unit_rows(data, block), min(count, len(block)), faiss.METRIC_INNER_PRODUCT
            )
            rows, scores = _best(
                np.hstack([rows, block[positions]]), np.hstack([scores, block_scores]), count
            )
    return Found(rows, scores, exact=True)


def build_index(
    data: BankData, factory: str, progress: Progress = lambda rows: None
) -> Index:
    """Build an index over the normalised rows; ``factory`` is e.g. ``HNSW32,SQ8``.

    It is trained on a sample and filled in blocks: besides the index itself it takes a few
    hundred MB, whatever the size of the bank.

    Args:
        data: The bank.
        factory: Kind of index, as faiss spells it.
        progress: Told the number of rows added since it was told last.

    Raises:
        InvalidRequestError: The factory string is not among those served.
    """
    if not _FACTORY.fullmatch(factory):
        raise InvalidRequestError(
            f"expected an index like 'HNSW32,SQ8', 'HNSW32,Flat' or 'IVF1024,SQ8', "
            f"found {factory!r}"
        )
    index: Index = faiss.index_factory(data.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    lists = index.nlist if isinstance(index, stubbed_faiss.IndexIVF) else 0
    index.train(_unit_rows(data, _sample(data, max(_TRAINING_ROWS, lists * _TRAINING_PER_LIST))))
    for start in range(0, len(data), _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, len(data)))
        index.add(_unit_rows(data, rows))
        progress(len(rows))
    return index


def measure_recall(data: BankData, index: Index, queries: int, count: int = 10) -> float:
    """Return the share of the exact ``count`` neighbours that the index finds.

    The queries are rows of the bank, evenly spaced.
    """
    ranges = _ranges(data, None)
    rows = _sample(data, queries)
    vectors, count = _unit_rows(data, rows), min(count, len(data))
    truth = exact_search(data, vectors, count, ranges).rows
    found = _index_search(index, data, vectors, count).rows
    hits = sum(
        len(np.intersect1d(expected[expected >= 0], got))
        for expected, got in zip(truth, found, strict=True)
    )
    return hits / int((truth >= 0).sum())


def library_version() -> str:
    """Name the release of faiss that reads and writes indexes here."""
    return str(faiss.__version__)


def write_index(index: Index, path: Path) -> None:
    """Write an index file."""
    faiss.write_index(index, str(path))


def read_index(path: Path, data: BankData) -> Index:
    """Map an index file; the caller has verified its checksum.

    Raises:
        CorruptVersionError: It is not a supported index of exactly these rows.
    """
    try:
        index: Index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptVersionError(
            f"expected an index in {path.name} of {data.version}, but faiss cannot read it: {error}"
        ) from error
    supported = isinstance(index, faiss.IndexHNSW | faiss.IndexIVF)
    found = (index.ntotal, index.d, index.metric_type, index.is_trained)
    expected = (len(data), data.dimension, faiss.METRIC_INNER_PRODUCT, True)
    if not supported or found != expected:
        raise CorruptVersionError(
            f"expected an HNSW or IVF index with (rows, dimension, metric, trained) {expected} in "
            f"{path.name} of {data.version}, found {type(index).__name__} with {found}"
        )
    return index


def search_parameters(index: Index, count: int) -> stubbed_faiss.SearchParameters:
    """Return the effort of a search, always explicit: a default parameter object resets it."""
    parameters: stubbed_faiss.SearchParameters
    if isinstance(index, stubbed_faiss.IndexIVF):
        probes = max(_MIN_PROBES, index.nlist // _LISTS_PER_PROBE)
        parameters = faiss.SearchParametersIVF(nprobe=probes)
    else:
        effort = max(_MIN_EF_SEARCH, 2 * count)
        parameters = faiss.SearchParametersHNSW(efSearch=effort)
    return parameters


def _index_search(index: Index, data: BankData, queries: Scores, count: int) -> Found:
    candidates = min(len(data), count * _OVERSAMPLING)
    _, proposed = index.search(queries, candidates, params=search_parameters(index, candidates))
    usable = proposed >= 0
    usable[usable] = ~data.tombstoned(proposed[usable])
    vectors = _unit_rows(data, proposed.ravel()).reshape(*proposed.shape, data.dimension)
    scores = np.where(usable, np.einsum("qd,qkd->qk", queries, vectors), -np.inf)
    return Found(*_best(np.where(usable, proposed, -1), scores, count), exact=False)


def _best(rows: Rows, scores: NDArray[Any], count: int) -> tuple[Rows, Scores]:
    """Keep the best ``count`` columns; equal scores are ordered by row number."""
    order = np.lexsort((rows, -scores), axis=1)[:, :count]
    return (
        np.take_along_axis(rows, order, axis=1),
        np.take_along_axis(scores, order, axis=1).astype(np.float32),
    )


def _sample(data: BankData, count: int) -> Rows:
    """Return row numbers, evenly spaced: a share of each class."""
    return np.linspace(0, len(data) - 1, min(count, len(data)), dtype=np.int64)


def _unit_rows(data: BankData, rows: Rows) -> Scores:
    vectors = data.vectors[rows].astype(np.float32)
    if not data.normalized:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _normalized_queries(queries: Scores, dimension: int) -> Scores:
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise InvalidRequestError(
            f"queries: expected shape (q, {dimension}), found {queries.shape}"
        )
    # Squares of finite float32 may overflow or vanish in float32, not in float64.
    norms = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise InvalidRequestError("queries: expected finite vectors that are not zero")
    normalized: Scores = (queries / norms).astype(np.float32)
    return normalized


def _ranges(data: BankData, labels: Sequence[int] | None) -> list[tuple[int, int]]:
    if labels is None:
        return [(0, len(data))]
    return [data.class_rows(label) for label in sorted(set(labels))]
