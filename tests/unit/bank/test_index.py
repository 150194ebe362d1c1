from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from gmem_bank import index
from gmem_bank.index import Searcher, build_index, exact_search, pin_threads, write_index
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank, tombstone
from gmem_shared.errors import CorruptVersionError, InvalidRequestError, UnknownClassError
from gmem_shared.store import Store
from tests.support import banks

Open = Callable[..., BankData]
FACTORIES = ("HNSW16,SQ8", "HNSW16,Flat", "IVF16,SQfp16")


def many(opened: Open, rows: int = 640) -> BankData:
    return opened(**banks.features(rows))


def indexed(data: BankData, tmp_path: Path, factory: str = "HNSW16,SQ8") -> Searcher:
    write_index(build_index(data, factory), tmp_path / "index.faiss")
    return Searcher(data, tmp_path / "index.faiss", exact_rows=0)


def brute_force(data: BankData, query: np.ndarray, count: int, allowed: np.ndarray) -> list[int]:
    vectors = data.vectors.astype(np.float64)
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1)
    cosine[~allowed] = -np.inf
    return np.argsort(-cosine)[:count].tolist()


def test_exact_search_agrees_with_brute_force(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = many(opened)
    monkeypatch.setattr(index, "_BLOCK_ROWS", 50)
    queries = np.random.default_rng(1).normal(size=(5, banks.DIMENSION)).astype(np.float32)
    for labels in (None, [2], [3, 0]):
        allowed = np.isin(data.labels, range(4) if labels is None else labels)
        found = Searcher(data).search(queries, 7, labels)
        assert found.exact
        assert found.rows.tolist() == [brute_force(data, q, 7, allowed) for q in queries]


def test_scores_are_cosines_whatever_the_length_of_query_and_rows(opened: Open) -> None:
    data = many(opened)
    found = Searcher(data).search(100 * data.vectors[[5]].astype(np.float32), 1)
    assert found.rows[0, 0] == 5
    assert found.scores[0, 0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_a_query_may_have_any_length_a_float_can_hold(opened: Open, length: float) -> None:
    searcher = Searcher(opened())
    query = np.ones((1, banks.DIMENSION), np.float32)
    expected, found = searcher.search(query, 5), searcher.search(query * np.float32(length), 5)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_short_answers_are_padded(opened: Open) -> None:
    data = opened(**banks.features(8))
    found = Searcher(data).search(np.ones((1, banks.DIMENSION), np.float32), 5, [1])
    assert (found.rows[0] >= 0).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("factory", FACTORIES)
def test_index_finds_the_true_neighbours(opened: Open, tmp_path: Path, factory: str) -> None:
    data = many(opened)
    queries = data.vectors[::40].astype(np.float32)
    found = indexed(data, tmp_path, factory).search(queries, 5)
    truth = Searcher(data).search(queries, 5)
    assert not found.exact
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found.rows, truth.rows, strict=True))
    assert hits >= 0.9 * truth.rows.size


def test_classes_are_searched_exactly_even_far_from_the_query(opened: Open, tmp_path: Path) -> None:
    data = many(opened)
    queries = data.vectors[::40].astype(np.float32)
    found = indexed(data, tmp_path).search(queries, 5, [0, 3])
    truth = Searcher(data).search(queries, 5, [0, 3])
    assert found.exact
    np.testing.assert_array_equal(found.rows, truth.rows)


@pytest.mark.parametrize("factory", FACTORIES)
def test_effort_is_always_explicit(opened: Open, factory: str) -> None:
    built = build_index(many(opened), factory)
    parameters = index.search_parameters(built, 200)
    if isinstance(built, faiss.IndexIVF):
        assert parameters.nprobe == 8
    else:
        assert parameters.efSearch >= 400


def test_deleted_rows_are_never_found(store: Store, tmp_path: Path) -> None:
    repository = store.repository("banks", "digits")
    version = banks.publish(store, **banks.features(600))
    data = open_bank(repository.open(tombstone(repository, version, rows=[5])))
    query = data.vectors[[5]].astype(np.float32)
    for searcher in (Searcher(data), indexed(data, tmp_path)):
        assert 5 not in searcher.search(query, 20).rows


def test_small_banks_are_searched_exactly(opened: Open, tmp_path: Path) -> None:
    data = many(opened)
    write_index(build_index(data, "HNSW16,SQ8"), tmp_path / "index.faiss")
    searcher = Searcher(data, tmp_path / "index.faiss", exact_rows=len(data))
    assert searcher.search(data.vectors[[5]].astype(np.float32), 3).exact


def test_short_answer_of_the_index_is_replaced_by_the_exact_one(
    store: Store, tmp_path: Path
) -> None:
    repository = store.repository("banks", "digits")
    version = banks.publish(store, **banks.features(640))
    class_0 = tombstone(repository, version, rows=range(150))  # all but ten of its rows
    data = open_bank(repository.open(class_0))
    query = data.vectors[[5]].astype(np.float32)
    found = indexed(data, tmp_path).search(query, 20)
    assert found.exact
    assert found.fell_back
    np.testing.assert_array_equal(found.rows, Searcher(data).search(query, 20).rows)


def test_recall_of_a_good_index_is_measured_as_such(opened: Open) -> None:
    data = many(opened)
    assert index.measure_recall(data, build_index(data, "HNSW16,Flat"), 50) > 0.95


@pytest.mark.parametrize(
    "queries",
    [
        np.zeros((1, banks.DIMENSION)),
        np.full((1, banks.DIMENSION), np.nan),
        np.ones((1, banks.DIMENSION + 1)),
        np.ones(banks.DIMENSION),
    ],
)
def test_queries_that_have_no_direction_are_refused(opened: Open, queries: Any) -> None:
    with pytest.raises(InvalidRequestError, match="queries: expected"):
        Searcher(opened()).search(queries, 1)


def test_unknown_class_is_refused(opened: Open) -> None:
    with pytest.raises(UnknownClassError):
        Searcher(opened()).search(np.ones((1, banks.DIMENSION), np.float32), 1, [9])


@pytest.mark.parametrize("factory", ["PQ8", "HNSW32,SQ8,RFlat", "../x", ""])
def test_only_known_index_types_are_built(opened: Open, factory: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected an index like"):
        build_index(opened(), factory)


def test_index_of_other_rows_or_of_another_type_is_refused(opened: Open, tmp_path: Path) -> None:
    data = many(opened, 600)
    write_index(build_index(many(opened, 500), "HNSW16,SQ8"), tmp_path / "smaller")
    faiss.write_index(faiss.IndexFlatIP(banks.DIMENSION), str(tmp_path / "flat"))
    (tmp_path / "nonsense").write_bytes(b"IHNf" + bytes(100))
    for name in ("smaller", "flat", "nonsense"):
        with pytest.raises(CorruptVersionError):
            Searcher(data, tmp_path / name)


def test_worker_threads_use_one_core() -> None:
    with ThreadPoolExecutor(1, initializer=pin_threads) as pool:
        assert pool.submit(faiss.omp_get_max_threads).result() == 1


def test_ties_are_ordered_by_row(opened: Open) -> None:
    arrays = banks.features(20)
    arrays["vectors"][:] = 1
    data = opened(**arrays)
    found = exact_search(data, np.full((1, 8), 8**-0.5, np.float32), 5, [(0, 20)])
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]
