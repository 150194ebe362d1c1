"""Nearest snippets by cosine similarity; the only module that imports faiss.

A search by class is exact: a class is a contiguous slice, and scanning it beats an index that has
to skip what the filter excludes (a graph finds hardly anything when the filter excludes the whole
neighbourhood of the query). So is a search of a bank up to ``EXACT_ROWS``. Over more rows an index,
when the version has one, proposes candidates; the stored vectors score them, deleted rows are
dropped, and an answer that is short then is replaced by the exact one.

How hard an index tries is measured when it is built and passed with every search: a parameter
object of faiss that does not name its effort resets it to next to nothing.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
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

HNSW_ROWS = 4_000_000
"""Banks up to this size get a graph, larger ones lists: a graph takes 264 bytes per row more."""

faiss: Any = stubbed_faiss  # its stubs lack most of what is used here
Index = stubbed_faiss.Index

_BLOCK_ROWS = 16_384
_SCAN_ROWS = 2048  # a block stays in the cache of a core
_FEW_QUERIES = 8
_OVERSAMPLING = 2
_FACTORY = re.compile(r"(HNSW|IVF)(\d{1,6}),(Flat|SQ8|SQfp16)")
_HNSW_EFFORTS = (64, 128, 256, 512)
_IVF_EFFORTS = (8, 16, 32, 64, 128, 256)
_LISTS_PER_ROOT = 4
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
        effort: Nodes or lists of the index that a search visits; default: for an index whose
            build did not measure it.
        exact_rows: Largest bank that is always searched exactly.

    Raises:
        CorruptVersionError: The index is not one of ours, or not of this version.
    """

    def __init__(
        self,
        data: BankData,
        index_file: Path | None = None,
        *,
        effort: int | None = None,
        exact_rows: int = EXACT_ROWS,
    ) -> None:
        self._data = data
        self._exact = _Exact(data)
        self._exact_rows = exact_rows
        self._index = None
        if index_file is not None:
            index = read_index(index_file, data)
            self._index = _Index(index, data, effort or default_effort(index))

    def search(self, queries: Scores, count: int, labels: Sequence[int] | None = None) -> Found:
        """Find the ``count`` most similar rows of each query, float32 ``(q, d)``.

        Raises:
            InvalidRequestError: The queries are not finite, not zero vectors of the bank's length.
            UnknownClassError: The bank has no such class.
        """
        queries = _normalized_queries(queries, self._data.dimension)
        ranges = _ranges(self._data, labels)
        if self._index is None or labels is not None or len(self._data) <= self._exact_rows:
            return self._exact.search(queries, count, ranges)
        found = self._index.search(queries, count)
        if (found.rows[:, count - 1 :] >= 0).all():
            return found
        return replace(self._exact.search(queries, count, ranges), fell_back=True)


def exact_search(
    data: BankData, queries: Scores, count: int, ranges: Sequence[tuple[int, int]]
) -> Found:
    """Compare every row in ``ranges`` with every query; queries have length 1."""
    return _Exact(data).search(queries, count, ranges)


def plan_index(rows: int) -> str:
    """Return the kind of index that suits a bank of so many rows."""
    if rows <= HNSW_ROWS:
        return "HNSW32,SQ8"
    return f"IVF{1 << round(math.log2(_LISTS_PER_ROOT * math.sqrt(rows)))},SQ8"


def build_index(data: BankData, factory: str, progress: Progress = lambda rows: None) -> Index:
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
    lists = 0
    if isinstance(index, stubbed_faiss.IndexIVF):
        lists = index.nlist
        if faiss.get_num_gpus():
            clusters = faiss.IndexFlatIP(data.dimension)
            index.clustering_index = faiss.index_cpu_to_all_gpus(clusters)
    sample = _sample(data, max(_TRAINING_ROWS, lists * _TRAINING_PER_LIST))
    index.train(_unit_rows(data, data.vectors[sample]))
    for start in range(0, len(data), _BLOCK_ROWS):
        block = data.vectors[start : start + _BLOCK_ROWS]
        index.add(_unit_rows(data, block))
        progress(len(block))
    return index


def measure_effort(
    data: BankData, index: Index, queries: int, *, min_recall: float, count: int = 10
) -> tuple[int, float]:
    """Find the least effort whose share of the exact ``count`` neighbours is ``min_recall``.

    The queries are rows of the bank, evenly spaced; that a row finds itself does not count.

    Returns:
        Effort and recall; the greatest effort when none is enough.
    """
    rows = _sample(data, queries)
    vectors = _unit_rows(data, data.vectors[rows])
    count = min(count + 1, len(data))
    truth = exact_search(data, vectors, count, _ranges(data, None)).rows
    truth = np.where(truth == rows[:, np.newaxis], -1, truth)
    effort, recall = 0, 0.0
    for effort in _efforts(index):
        found = _Index(index, data, effort).search(vectors, count).rows
        hits = (truth[:, :, np.newaxis] == found[:, np.newaxis, :]).any(axis=2) & (truth >= 0)
        recall = hits.sum() / max(1, (truth >= 0).sum())
        if recall >= min_recall:
            break
    return effort, float(recall)


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


def default_effort(index: Index) -> int:
    """Return the effort for an index that comes without a measured one."""
    if isinstance(index, stubbed_faiss.IndexIVF):
        return max(_IVF_EFFORTS[0], index.nlist // 16)
    return _HNSW_EFFORTS[1]


def search_parameters(index: Index, effort: int, count: int) -> stubbed_faiss.SearchParameters:
    """Return the effort of a search for ``count`` rows, always explicit."""
    parameters: stubbed_faiss.SearchParameters
    if hasattr(index, "nlist"):
        parameters = faiss.SearchParametersIVF(nprobe=min(effort, index.nlist))
    else:
        parameters = faiss.SearchParametersHNSW(efSearch=max(effort, count))
    return parameters


class _Exact:
    """Compares rows of one bank version with queries, one by one.

    Few queries are compared with float16 rows where these lie, in the mapped file: converting a row
    costs more than five comparisons. A cosine then needs the row's length, which is computed when a
    row is first compared; the rows never compared take no memory for it.
    """

    def __init__(self, data: BankData) -> None:
        self._data = data
        self._lengths = np.zeros(len(data), np.float32)

    def search(self, queries: Scores, count: int, ranges: Sequence[tuple[int, int]]) -> Found:
        """Find the ``count`` most similar rows in ``ranges``; queries have length 1."""
        if self._data.vectors.dtype == np.float16 and len(queries) <= _FEW_QUERIES:
            return self._scan(queries, count, ranges)
        return self._convert(queries, count, ranges)

    def _scan(self, queries: Scores, count: int, ranges: Sequence[tuple[int, int]]) -> Found:
        rows = np.full((len(queries), count), -1, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        candidates = np.concatenate([np.arange(begin, end) for begin, end in ranges])
        if self._data.has_deleted:
            kept = np.flatnonzero(~self._data.tombstoned(candidates))
        else:
            kept = np.arange(len(candidates))
        for number, query in enumerate(queries):
            parts = [self._cosines(query, begin, end) for begin, end in ranges]
            cosines = np.concatenate(parts)[kept]
            best = _top(cosines, count)
            rows[number, : len(best)] = candidates[kept[best]]
            scores[number, : len(best)] = cosines[best]
        return Found(rows, scores, exact=True)

    def _convert(self, queries: Scores, count: int, ranges: Sequence[tuple[int, int]]) -> Found:
        rows = np.full((len(queries), count), -1, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        for begin, end in ranges:
            for start in range(begin, end, _SCAN_ROWS):
                block, vectors = _existing(self._data, start, min(start + _SCAN_ROWS, end))
                if not len(block):
                    continue
                block_scores, positions = faiss.knn(
                    queries, vectors, min(count, len(block)), faiss.METRIC_INNER_PRODUCT
                )
                rows, scores = _best(
                    np.hstack([rows, block[positions]]), np.hstack([scores, block_scores]), count
                )
        return Found(rows, scores, exact=True)

    def _cosines(self, query: Scores, begin: int, end: int) -> Scores:
        stored = self._data.vectors[begin:end]
        cosines = _compare(query, stored, faiss.METRIC_INNER_PRODUCT)
        if self._data.normalized:
            return cosines
        lengths = self._lengths[begin:end]
        if not lengths.all():
            lengths[:] = np.sqrt(_compare(np.zeros_like(query), stored, faiss.METRIC_L2))
        return cosines / lengths


def _compare(query: Scores, stored: NDArray[np.float16], metric: int) -> Scores:
    """Return the metric between a query ``(d,)`` and each float16 row ``(m, d)``, where it lies."""
    scanner = _scanners.of(metric, stored.shape[1])
    scanner.set_query(faiss.swig_ptr(query))
    compared = np.empty(len(stored), np.float32)
    worst = -np.inf if metric == faiss.METRIC_INNER_PRODUCT else np.inf
    for start in range(0, len(stored), _SCAN_ROWS):
        block = stored[start : start + _SCAN_ROWS].view(np.uint8)
        # A heap that has room for all keeps all: this is the only door to the comparison itself.
        numbers, kept = np.arange(len(block)), np.empty(len(block), np.int64)
        values = np.full(len(block), worst, np.float32)
        arrays = (block, numbers, values, kept)
        scanner.scan_codes(len(block), *map(faiss.swig_ptr, arrays), len(block))
        compared[start + kept] = values
    return compared


class _Scanners(threading.local):
    """A thread's own scanners: one holds the query of the moment, and faiss does not free it."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], Any] = {}

    def of(self, metric: int, dimension: int) -> Any:
        """Return the one for a metric and a length of rows."""
        if (metric, dimension) not in self._made:
            half = _half(dimension)
            scanner = half.select_InvertedListScanner(metric, None, True, None, False)
            scanner.set_list(0, 0)
            self._made[metric, dimension] = scanner
        return self._made[metric, dimension]


_scanners = _Scanners()


def _top(scores: Scores, count: int) -> Rows:
    """Return the positions of the best, best first; of equal ones, the first."""
    if len(scores) > count:
        threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
        positions = np.flatnonzero(scores >= threshold)
    else:
        positions = np.arange(len(scores))
    best: Rows = positions[np.argsort(-scores[positions], kind="stable")[:count]]
    return best


class _Index:
    """An index of one bank version: it proposes, the stored vectors decide.

    Lists are searched on the first GPU when this faiss has one; a graph stays on the CPU. GPU
    indexes are not thread-safe, not even for reading.
    """

    def __init__(self, index: Index, data: BankData, effort: int) -> None:
        self._data = data
        self._effort = effort
        self._index = index
        self._lock: AbstractContextManager[object] = nullcontext()
        if isinstance(index, stubbed_faiss.IndexIVF) and faiss.get_num_gpus():
            self._index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
            self._lock = threading.Lock()
        self._parameters = search_parameters(self._index, effort, effort)

    def search(self, queries: Scores, count: int) -> Found:
        """Find about ``count`` most similar rows; queries have length 1."""
        data = self._data
        candidates = min(len(data), count * _OVERSAMPLING)
        parameters = self._parameters
        if candidates > self._effort:
            parameters = search_parameters(self._index, self._effort, candidates)
        with self._lock:
            _, proposed = self._index.search(queries, candidates, params=parameters)
        stored = data.vectors.take(proposed.ravel(), axis=0, mode="clip")
        vectors = _float32(stored).reshape(*proposed.shape, data.dimension)
        scores = np.einsum("qd,qkd->qk", queries, vectors)
        if not data.normalized:
            scores /= np.sqrt(np.einsum("qkd,qkd->qk", vectors, vectors))
        unusable = proposed < 0
        if data.has_deleted:
            unusable |= data.tombstoned(np.maximum(proposed, 0))
        proposed[unusable], scores[unusable] = -1, -np.inf
        return Found(*_best(proposed, scores, count), exact=False)


def _efforts(index: Index) -> tuple[int, ...]:
    return _IVF_EFFORTS if isinstance(index, stubbed_faiss.IndexIVF) else _HNSW_EFFORTS


def _best(rows: Rows, scores: Scores, count: int) -> tuple[Rows, Scores]:
    """Keep the best ``count`` columns; equal scores are ordered by row number."""
    order = np.lexsort((rows, -scores), axis=1)[:, :count]
    lines = np.arange(len(rows))[:, np.newaxis]
    return rows[lines, order], scores[lines, order]


def _existing(data: BankData, begin: int, end: int) -> tuple[Rows, Scores]:
    """Return the rows of a range that were not deleted, and their vectors scaled to length 1."""
    rows, vectors = np.arange(begin, end), data.vectors[begin:end]
    if data.has_deleted:
        kept = ~data.tombstoned(rows)
        rows, vectors = rows[kept], vectors[kept]
    return rows, _unit_rows(data, vectors)


def _sample(data: BankData, count: int) -> Rows:
    """Return row numbers, evenly spaced: a share of each class."""
    return np.linspace(0, len(data) - 1, min(count, len(data)), dtype=np.int64)


def _unit_rows(data: BankData, stored: NDArray[Any]) -> Scores:
    """Return vectors as stored, ``(m, d)``, as float32 of length 1."""
    vectors = _float32(stored)
    if not data.normalized:
        vectors *= 1 / np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, np.newaxis]
    return vectors


def _float32(stored: NDArray[Any]) -> Scores:
    """Copy vectors as stored, ``(m, d)``; faiss converts twice as fast as numpy."""
    if stored.dtype == np.float16:
        converted: Scores = _half(stored.shape[1]).decode(stored.view(np.uint8))
        return converted
    return stored.astype(np.float32)


@cache
def _half(dimension: int) -> Any:
    return faiss.ScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16)


def _normalized_queries(queries: Scores, dimension: int) -> Scores:
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise InvalidRequestError(
            f"queries: expected shape (q, {dimension}), found {queries.shape}"
        )
    # Squares of finite float32 may overflow or vanish in float32, not in float64.
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))[:, np.newaxis]
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise InvalidRequestError("queries: expected finite vectors that are not zero")
    normalized: Scores = (queries / norms).astype(np.float32)
    return normalized


def _ranges(data: BankData, labels: Sequence[int] | None) -> list[tuple[int, int]]:
    if labels is None:
        return [(0, len(data))]
    return [data.class_rows(label) for label in sorted(set(labels))]
