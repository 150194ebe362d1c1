from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gmem_shared import bank_rows
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import (
    COEFFICIENTS,
    DRAW,
    META,
    PROVENANCE,
    SNIPPETS,
    open_bank,
    tombstone,
    write_bank,
)
from gmem_shared.errors import (
    CorruptVersionError,
    InvalidRequestError,
    OutOfRangeError,
    UnknownClassError,
    UnknownRowError,
)
from gmem_shared.store import Store
from gmem_shared.tensor_file import map_tensors, write_tensors
from gmem_shared.types import ClassInfo
from tests.support import banks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), tmp_path / "cache")


def publish_and_open(store: Store, **arrays: Any) -> BankData:
    version = banks.publish(store, **arrays)
    return open_bank(store.repository("banks", "digits").open(version))


def test_rows_are_sorted_by_label_and_source_id(store: Store) -> None:
    data = publish_and_open(
        store,
        vectors=np.array([[1, 0], [2, 0], [3, 0], [4, 0]], np.float32),
        labels=np.array([1, -1, 0, 1]),
        source_ids=np.array([9, 5, 7, 8]),
        classes=[ClassInfo(1, "one"), ClassInfo(0, "zero")],
        weights=np.array([10, 20, 30, 0]),
    )
    assert data.vectors[:, 0].tolist() == [2, 3, 4, 1]
    assert data.labels.tolist() == [-1, 0, 1, 1]
    assert data.source_ids.tolist() == [5, 7, 8, 9]
    assert data.class_offsets.tolist() == [1, 2, 4]
    assert data.cumulative_weights.tolist() == [0, 20, 50, 50, 60]
    assert [(c.id, c.name, c.rows) for c in data.classes] == [(0, "zero", 1), (1, "one", 1)]


def test_opened_vectors_are_a_mapping_of_the_file(store: Store) -> None:
    data = publish_and_open(store)
    assert not data.vectors.flags.owndata
    assert not data.vectors.flags.writeable
    assert data.vectors.dtype == np.float16


def test_same_rows_in_another_order_give_the_same_version(store: Store) -> None:
    arrays = banks.features()
    backwards = {name: array[::-1] for name, array in arrays.items()}
    assert banks.publish(store, **arrays).digest == banks.publish(store, **backwards).digest


def test_weight_of_a_row_is_relative_to_the_mean_of_its_class(store: Store) -> None:
    data = publish_and_open(
        store, **banks.features(6, classes=2), weights=np.array([1, 5, 2, 5, 3, 5])
    )
    assert data.take(np.arange(6)).weights.tolist() == [0.5, 1.0, 1.5, 1.0, 1.0, 1.0]


def test_take_keeps_the_order_asked_for(store: Store) -> None:
    snippets = publish_and_open(store).take(np.array([7, 0, 7]))
    assert snippets.rows.tolist() == [7, 0, 7]
    assert snippets.source_ids[0] == snippets.source_ids[2]
    np.testing.assert_array_equal(snippets.vectors[0], snippets.vectors[2])


@pytest.mark.parametrize("row", [-1, 40, 2**62])
def test_rows_out_of_range_are_refused(store: Store, row: int) -> None:
    with pytest.raises(UnknownRowError, match=r"expected rows 0 … 39 of bank digits@1"):
        publish_and_open(store).take(np.array([0, row]))


def test_unknown_class_names_those_there_are(store: Store) -> None:
    with pytest.raises(UnknownClassError, match=r"4 class ids .*0, 1, 2, 3.*found 4"):
        publish_and_open(store).class_rows(4)


def test_tombstone_shares_every_other_file_and_keeps_row_numbers(store: Store) -> None:
    repository = store.repository("banks", "digits")
    first = banks.publish(store)
    before = open_bank(repository.open(first))
    gone = int(before.source_ids[12])
    second = tombstone(repository, first, rows=[3], source_ids=[gone], message="asked to")
    after = open_bank(repository.open(second))

    changed = {
        name
        for name, entry in second.manifest.files.items()
        if entry.sha256 != first.manifest.files[name].sha256
    }
    assert changed == {DRAW}
    assert after.tombstoned(np.arange(40)).nonzero()[0].tolist() == [3, 12]
    assert sum(c.rows for c in after.classes) == 38
    np.testing.assert_array_equal(after.take(np.array([4])).vectors, before.vectors[4:5])
    with pytest.raises(UnknownRowError, match=r"12 were deleted"):
        after.take(np.array([4, 12]))
    assert second.manifest.metadata["tombstones"] == 2


def test_tombstones_add_up_and_older_versions_keep_their_rows(store: Store) -> None:
    repository = store.repository("banks", "digits")
    first = banks.publish(store)
    third = tombstone(repository, tombstone(repository, first, rows=[1]), rows=[2])
    assert open_bank(repository.open(third)).tombstoned(np.arange(4)).tolist() == [
        False, True, True, False,
    ]  # fmt: skip
    assert not open_bank(repository.open(first)).tombstoned(np.arange(40)).any()


def test_tombstone_refuses_unknown_rows_and_an_empty_bank(store: Store) -> None:
    repository = store.repository("banks", "digits")
    version = banks.publish(store)
    with pytest.raises(UnknownRowError, match=r"rows 40, source ids 7777"):
        tombstone(repository, version, rows=[40], source_ids=[7777])
    with pytest.raises(OutOfRangeError, match="no row left"):
        tombstone(repository, version, rows=range(40))
    assert len(repository.versions()) == 1


def test_provenance_follows_the_rows(store: Store, tmp_path: Path) -> None:
    arrays = banks.features(8)
    table = pyarrow.table({"uri": [f"image-{i}" for i in arrays["source_ids"]]})
    files, _ = write_bank(tmp_path, **arrays, classes=banks.CLASSES, encoder="e", provenance=table)
    uris = parquet.read_table(files[PROVENANCE])["uri"].to_pylist()
    version = banks.publish(store, **arrays)
    ids = open_bank(store.repository("banks", "digits").open(version)).source_ids
    assert uris == [f"image-{i}" for i in ids]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_streamed_vectors_make_the_file_that_all_at_once_would(
    rows: int, width: int, seed: int, half: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(1, 0.1, size=(rows, width)).astype(np.float16 if half else np.float32)
    labels, ids = rng.integers(-1, 3, rows), rng.integers(0, 5, rows)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_rows, "BLOCK_ROWS", 7)
        np.save(Path(folder) / "vectors.npy", vectors)
        files, _ = write_bank(
            Path(folder),
            vectors=bank_rows.FileRows.of_npy(Path(folder) / "vectors.npy"),
            labels=labels,
            source_ids=ids,
            classes=banks.CLASSES,
            encoder="e",
        )
        write_tensors(Path(folder) / "expected", {"snippets": vectors[np.lexsort((ids, labels))]})
        assert files[SNIPPETS].read_bytes() == (Path(folder) / "expected").read_bytes()


def test_shorter_numbers_are_stored_with_what_they_cost(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    done: list[int] = []
    files, metadata = write_bank(
        tmp_path, **bad(vectors=vectors, dtype=np.dtype(np.float16), progress=done.append)
    )
    stored = map_tensors(files[SNIPPETS])["snippets"].astype(np.float32)
    order = np.lexsort((bad()["source_ids"], bad()["labels"]))
    error = np.linalg.norm(stored - vectors[order], axis=1) / np.linalg.norm(vectors[order], axis=1)
    assert metadata["dtype"] == "float16"
    assert metadata["rounding_error"] == pytest.approx(error.max(), rel=0.01)
    assert 0 < error.max() < 2**-11
    assert sum(done) == 8


def test_coefficients_follow_the_rows(tmp_path: Path) -> None:
    coefficients = {
        "coefficients": np.arange(16, dtype=np.float32).reshape(8, 2),
        "basis": np.ones((8, 2), np.float32),
        "scales": np.ones(2, np.float32),
        "mean": np.ones(8, np.float32),
    }
    files, _ = write_bank(tmp_path, **bad(coefficients=coefficients))
    written = map_tensors(files[COEFFICIENTS])
    assert written.keys() == coefficients.keys()
    assert written["coefficients"][:, 0].tolist() == [0, 8, 2, 10, 4, 12, 6, 14]


def bad(**changes: Any) -> dict[str, Any]:
    return {**banks.features(8), "classes": banks.CLASSES, "encoder": "e", **changes}


def with_value(value: float) -> np.ndarray:
    vectors = banks.features(8)["vectors"].copy()
    vectors[5] = value
    return vectors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": with_value(np.nan)}, r"vectors: expected vectors finite .*rows 5 are not"),
        ({"vectors": with_value(np.inf)}, r"rows 5 are not"),
        ({"vectors": with_value(0)}, r"not zero; rows 5"),
        ({"vectors": np.ones((8, 2), np.float64)}, r"float16 or float32 .*found float64"),
        ({"dtype": np.dtype(np.float64)}, r"float16 or float32 .*found float64"),
        ({"vectors": np.ones((8, 2), np.int32)}, r"floating-point numbers .*found int32"),
        ({"vectors": np.full((8, 2), 1e6, np.float32), "dtype": np.dtype(np.float16)}, "finite"),
        ({"vectors": np.ones(8, np.float32)}, r"\(n, d\)"),
        ({"normalized": True}, r"of length 1; rows 0, 1"),
        ({"labels": np.full(8, 4)}, r"labels: .*found 4"),
        ({"labels": np.full(8, -2)}, r"labels: .*found -2"),
        ({"source_ids": np.arange(7)}, r"source_ids: .*8 rows, found shape \(7,\)"),
        ({"weights": np.zeros(8, np.int64)}, r"weights: expected a sum"),
        ({"weights": np.full(8, -1)}, r"weights: expected integers"),
        ({"weights": np.full(8, 2**32)}, r"weights: expected integers"),
        ({"weights": np.full(8, 0.5)}, r"weights: expected integers.*float64"),
        ({"labels": np.full(8, 0.5)}, r"labels: expected integers, found float64"),
        ({"labels": np.full(8, 1 << 32)}, r"labels: expected integers in .*found 4294967296"),
        ({"source_ids": np.full(8, 1 << 63, np.uint64)}, r"source_ids: expected integers in"),
        ({"labels": np.array(0)}, r"labels: expected one value for each of 8 rows"),
        ({"provenance": pyarrow.table({"uri": ["a"] * 9})}, "expected 8 records, found 9"),
        ({"provenance": pyarrow.table({"uri": ["a"] * 7})}, "expected 8 records, found 7"),
        ({"classes": [*banks.CLASSES, ClassInfo(0, "again")]}, r"classes: expected unique ids"),
        ({"classes": [*banks.CLASSES, ClassInfo(9, "class-1")]}, r"one class each, found class-1"),
    ],
)
def test_arrays_that_make_no_bank_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        write_bank(tmp_path, **bad(**changes))


def republish(store: Store, file: str, content: bytes, **metadata: Any) -> BankData:
    repository = store.repository("banks", "digits")
    version = repository.latest()
    kept = {name: entry for name, entry in version.manifest.files.items() if name != file}
    broken = repository.publish(
        {file: content}, metadata=version.manifest.metadata | metadata, reuse=kept
    )
    return open_bank(repository.open(broken))


@pytest.mark.parametrize("file", [SNIPPETS, META, DRAW, "classes.json"])
def test_published_nonsense_is_a_corrupt_version(store: Store, file: str) -> None:
    banks.publish(store)
    with pytest.raises(CorruptVersionError):
        republish(store, file, b'{"classes": []}')


def test_unknown_format_or_draw_is_refused(store: Store) -> None:
    banks.publish(store)
    with pytest.raises(CorruptVersionError, match="upgrade the reader"):
        republish(store, "note.txt", b"", draw="philox4x32-10/2")
