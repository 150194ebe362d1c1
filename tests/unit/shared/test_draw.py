from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank, tombstone
from gmem_shared.draw import draw_rows, multiply_high, uniform64
from gmem_shared.errors import OutOfRangeError, UnknownClassError
from gmem_shared.store import Store
from gmem_shared.types import ClassInfo, DrawSpec, VersionRef
from tests.support import banks
from tests.unit.shared import reference_draw

VECTORS = json.loads((Path(__file__).parent / "draw_vectors.json").read_text())
DIGEST = "sha256-" + "0123456789abcdef" * 4
UINT64 = st.integers(0, 2**64 - 1)


def bank(row_labels: list[int], weights: list[int], digest: str = DIGEST) -> BankData:
    labels = np.asarray(row_labels, np.int32)
    ids = sorted(set(row_labels) - {-1})
    cumulative = np.concatenate([[0], np.cumsum(weights)]).astype(np.uint64)
    return BankData(
        version=VersionRef("digits", 1, digest),
        encoder="test-encoder",
        normalized=False,
        classes=tuple(ClassInfo(label, str(label)) for label in ids),
        vectors=np.zeros((len(labels), 2), np.float16),
        labels=labels,
        source_ids=np.arange(len(labels)),
        weights=np.asarray(weights, np.uint32),
        class_offsets=np.append(np.searchsorted(labels, ids), len(labels)).astype(np.int64),
        cumulative_weights=cumulative,
        tombstones=np.zeros((len(labels) + 7) // 8, np.uint8),
        mean_weights=np.ones(len(ids) + 1),
    )


def draw(data: BankData, *specs: DrawSpec) -> NDArray[np.int64]:
    return draw_rows(data, specs)


@pytest.mark.parametrize("case", VECTORS["uniform"])
def test_random_integers_are_the_published_ones(case: dict[str, Any]) -> None:
    seeds = np.full(4, case["seed"], np.uint64)
    numbers = np.arange(4, dtype=np.uint64) + np.uint64(case["offset"])
    values = uniform64(case["digest"], seeds, numbers)
    expected = [int(value, 16) for value in case["values"]]
    assert values.tolist() == expected
    assert expected == [
        reference_draw.uniform(case["digest"], case["seed"], case["offset"] + i) for i in range(4)
    ]


@pytest.mark.parametrize("case", VECTORS["rows"])
def test_rows_are_the_published_ones(case: dict[str, Any]) -> None:
    weights = VECTORS["weights"][case["weights"]]
    labels = None if case["labels"] is None else tuple(case["labels"])
    data = bank(VECTORS["row_labels"], weights, case["digest"])
    spec = DrawSpec(len(case["rows"]), case["seed"], labels, case["offset"])
    assert draw(data, spec).tolist() == case["rows"]


@settings(deadline=None, max_examples=50)
@given(
    weights=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30).filter(any),
    seed=UINT64,
    offset=st.integers(0, 2**64 - 9),
)
def test_rows_agree_with_plain_integer_arithmetic(
    weights: list[int], seed: int, offset: int
) -> None:
    row_labels = [i // 4 for i in range(len(weights))]
    heavy = row_labels[int(np.argmax(weights))]
    for labels in (None, (heavy,), (row_labels[-1], heavy)):
        rows = draw(bank(row_labels, weights), DrawSpec(8, seed, labels, offset))
        assert rows.tolist() == [
            reference_draw.draw(DIGEST, seed, offset + i, weights, row_labels, labels)
            for i in range(8)
        ]


@given(UINT64, st.integers(1, 2**48))
def test_multiply_high_is_exact(value: int, bound: int) -> None:
    assert (
        multiply_high(np.array([value], np.uint64), np.array([bound], np.uint64))
        == value * bound >> 64
    )


def test_one_draw_of_256_equals_8_of_32() -> None:
    data = bank([0] * 50 + [1] * 50, [1, 3] * 50)
    whole = draw(data, DrawSpec(256, 7))
    parts = [draw(data, DrawSpec(32, 7, None, offset)) for offset in range(0, 256, 32)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_draws_made_together_equal_draws_made_alone() -> None:
    data = bank([0] * 5 + [1] * 5 + [2] * 5, [1, 2, 3] * 5)
    specs = [
        DrawSpec(3, 1),
        DrawSpec(5, 2, (2, 0)),
        DrawSpec(1, 1, (1,), 9),
        DrawSpec(4, 2, (0, 2)),
    ]
    alone = [draw(data, spec) for spec in specs]
    np.testing.assert_array_equal(draw(data, *specs), np.concatenate(alone))


def test_order_and_repetition_of_labels_do_not_matter() -> None:
    data = bank([0] * 5 + [1] * 5 + [2] * 5, [1] * 15)
    one, other = (draw(data, DrawSpec(64, 3, labels)) for labels in ((0, 2), (2, 0, 2)))
    np.testing.assert_array_equal(one, other)


def test_seed_and_version_change_the_rows() -> None:
    data = bank([0] * 1000, [1] * 1000)
    other_version = replace(data, version=VersionRef("digits", 2, "sha256-" + "f" * 64))
    draws = {
        tuple(draw(data, DrawSpec(16, 1))),
        tuple(draw(data, DrawSpec(16, 2))),
        tuple(draw(other_version, DrawSpec(16, 1))),
    }
    assert len(draws) == 3


def test_rows_come_in_proportion_to_their_weights() -> None:
    weights = [1, 0, 2, 5]
    drawn = Counter(draw(bank([0, 0, 1, 1], weights), DrawSpec(80_000, 11)).tolist())
    assert drawn[1] == 0
    expected = np.array([w * 10_000 for w in weights])
    chi_square = sum((drawn[r] - e) ** 2 / e for r, e in enumerate(expected) if e)
    assert chi_square < 13.8  # 2 degrees of freedom, p = 0.001


def test_draw_over_everything_includes_rows_without_a_label() -> None:
    assert (
        -1 in bank([-1, -1, 0], [1, 1, 1]).labels[draw(bank([-1, -1, 0], [1] * 3), DrawSpec(50, 0))]
    )


def test_unknown_class_is_refused() -> None:
    with pytest.raises(UnknownClassError, match=r"digits@1 .*found 9"):
        draw(bank([0, 1], [1, 1]), DrawSpec(1, 0, (9,)))


def test_class_without_drawable_rows_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match=r"class set \[1\] has none"):
        draw(bank([0, 1], [1, 0]), DrawSpec(1, 0, (1,)))


@pytest.mark.parametrize(
    "spec",
    [DrawSpec(1, -1), DrawSpec(1, 2**64), DrawSpec(2, 0, None, 2**64 - 1), DrawSpec(1, 0, ())],
)
def test_numbers_beyond_the_stream_are_refused(spec: DrawSpec) -> None:
    with pytest.raises(OutOfRangeError):
        draw(bank([0], [1]), spec)


def test_deleted_rows_are_never_drawn(tmp_path: Path) -> None:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    repository = store.repository("banks", "digits")
    version = tombstone(repository, banks.publish(store), rows=[3, 17])
    data = open_bank(repository.open(version))
    drawn = set(draw(data, DrawSpec(2000, 5)).tolist())
    assert drawn == set(range(40)) - {3, 17}
