from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("few", [0, 8])
def test_exact_search_agrees_with_brute_force(
    opened: Open, monkeypatch: pytest.MonkeyPatch, few: int, dtype: str
) -> None:
    arrays = banks.features(640)
    data = opened(**arrays | {"vectors": arrays["vectors"].astype(dtype)})
    monkeypatch.setattr(index, "_SCAN_ROWS", 50)
    monkeypatch.setattr(index, "_FEW_QUERIES", few)
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


def test_searches_of_many_threads_do_not_mix(opened: Open) -> None:
    data = many(opened)
    searcher = Searcher(data)
    queries = data.vectors[:64].astype(np.float32)
    alone = [searcher.search(query[np.newaxis], 5).rows.tolist() for query in queries]
    with ThreadPoolExecutor(8, initializer=pin_threads) as pool:
        for _ in range(10):
            found = pool.map(lambda query: searcher.search(query[np.newaxis], 5), queries)
            assert [one.rows.tolist() for one in found] == alone


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
    parameters = index.search_parameters(built, effort=12, count=40)
    if isinstance(built, faiss.IndexIVF):
        assert parameters.nprobe == 12
        assert index.search_parameters(built, effort=1000, count=1).nprobe == 16, "all lists"
    else:
        assert parameters.efSearch == 40, "a graph cannot return more than it visits"
        assert index.search_parameters(built, effort=64, count=40).efSearch == 64


def test_lists_are_searched_on_a_gpu_when_there_is_one_and_graphs_are_not(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[type] = []

    def to_gpu(resources: object, device: int, on_cpu: Any) -> Any:
        moved.append(type(on_cpu))
        return on_cpu

    data = many(opened)
    built = {factory: build_index(data, factory) for factory in ("HNSW16,SQ8", "IVF16,SQ8")}
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    for factory, one in built.items():
        write_index(one, tmp_path / factory)
        searcher = Searcher(data, tmp_path / factory, exact_rows=0)
        assert searcher.search(data.vectors[[5]].astype(np.float32), 3).rows[0, 0] == 5
    assert moved == [faiss.IndexIVFScalarQuantizer]


def test_deleted_rows_are_never_found(store: Store, tmp_path: Path) -> None:
    repository = store.repository("banks", "digits")
    version = banks.publish(store, **banks.features(600))
    data = open_bank(repository.open(tombstone(repository, version, rows=[5])))
    query = data.vectors[[5]].astype(np.float32)
    for searcher in (Searcher(data), indexed(data, tmp_path)):
        assert 5 not in searcher.search(query, 20).rows
        assert 5 not in searcher.search(np.repeat(query, 20, axis=0), 20).rows


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


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_least_effort_that_is_enough_is_found(opened: Open, factory: str) -> None:
    data = many(opened)
    built = build_index(data, factory)
    least, recall = index.measure_effort(data, built, 50, min_recall=0.0)
    assert least == {"H": 64, "I": 8}[factory[0]]
    assert 0.5 < recall <= 1
    effort, enough = index.measure_effort(data, built, 50, min_recall=0.95)
    assert effort >= least
    assert enough >= 0.95


def test_that_a_row_finds_itself_is_no_recall(opened: Open) -> None:
    data = opened(**banks.features(300))
    other = np.random.default_rng(0).permutation(len(data))
    blind = build_index(replace(data, vectors=data.vectors[other]), "HNSW16,Flat")
    found = blind.search(data.vectors[:1].astype(np.float32), 1)[1]
    assert found[0, 0] != 0
    _, recall = index.measure_effort(data, blind, 50, min_recall=0.95)
    assert recall < 0.5


@pytest.mark.parametrize(
    ("rows", "factory"),
    [(50_000, "HNSW32,SQ8"), (1_280_000, "HNSW32,SQ8"), (14_000_000, "IVF16384,SQ8")],
)
def test_the_kind_of_index_follows_from_the_size(rows: int, factory: str) -> None:
    assert index.plan_index(rows) == factory


def test_building_tells_how_far_it_is(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_BLOCK_ROWS", 300)
    done: list[int] = []
    assert build_index(many(opened), "HNSW16,SQ8", done.append).ntotal == 640
    assert done == [300, 300, 40]


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


@pytest.mark.parametrize("few", [0, 8])
def test_ties_are_ordered_by_row(opened: Open, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(index, "_FEW_QUERIES", few)
    arrays = banks.features(20)
    arrays["vectors"][:] = 1
    data = opened(**arrays)
    found = exact_search(data, np.full((1, 8), 8**-0.5, np.float32), 5, [(0, 20)])
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]
