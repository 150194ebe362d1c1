from __future__ import annotations

import numpy as np
import pytest

from benchmarks.banks.features import ROWS_PER_CLASS, GeneratedRows
from benchmarks.banks.outcome import Outcome, call_by_call, median_seconds
from benchmarks.banks.questions import recall


def test_generated_rows_are_the_same_every_time_and_tell_classes_apart() -> None:
    first, again = GeneratedRows(4 * ROWS_PER_CLASS), GeneratedRows(4 * ROWS_PER_CLASS)
    rows = np.arange(4096)
    np.testing.assert_array_equal(first[rows], again[rows])
    vectors = first[rows].astype(np.float32)
    own = [vectors[first.labels[rows] == label].mean(axis=0) for label in range(3)]
    distance = np.linalg.norm(vectors[:, np.newaxis] - np.array(own), axis=2)
    known = first.labels[rows] < 3
    nearest = distance.argmin(axis=1)
    assert (nearest == first.labels[rows])[known].mean() > 0.9
    assert np.bincount(first.labels).tolist() == [ROWS_PER_CLASS] * 4


def test_recall_is_the_share_that_was_found() -> None:
    assert recall(np.array([[1, 2], [3, 4]]), [[2, 1], [3, 9]]) == pytest.approx(0.75)


def test_a_table_has_a_line_per_side_and_keeps_what_was_measured() -> None:
    outcome = Outcome()
    outcome.milliseconds("searches", {"ours": [0.001, 0.003, 0.002]}, {"ours": 1.0})
    assert list(outcome.tables[0].rows[0]) == ["ours", "2 (1 … 3)", 1.0]
    assert outcome.raw["searches"]["seconds"] == {"ours": [0.001, 0.003, 0.002]}


def test_every_argument_is_tried_once() -> None:
    seen: list[int] = []
    assert median_seconds(seen.append, range(3)) >= 0
    assert seen == [0, 1, 2]


def test_call_by_call_gives_all_sides_the_same_but_never_at_once() -> None:
    seen: list[tuple[str, int]] = []
    sides = {side: lambda n, side=side: seen.append((side, n)) for side in ("a", "b")}
    medians = call_by_call(sides, lambda _: range(4), repetitions=2)
    assert {side: len(values) for side, values in medians.items()} == {"a": 2, "b": 2}
    for side in sides:
        assert sorted(n for one, n in seen if one == side) == sorted([*range(4)] * 3)
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in pairs)
    assert {one[0] for one, _ in pairs} == {"a", "b"}, "each is first in its turn"
