from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gmem_shared.class_draw import STAGE, draw_classes
from tests.unit.shared.reference_draw import MASK, philox


def written_down(class_ids: list[int], seed: int, index: int) -> int:
    """docs/formats/class-draw.md in plain Python integers."""
    counter = [0, STAGE, index & MASK, index >> 32]
    words = philox(counter, [seed & MASK, seed >> 32])
    return sorted(class_ids)[(words[0] + (words[1] << 32)) * len(class_ids) >> 64]


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
@pytest.mark.parametrize("class_ids", [[0], [2, 7, 5], list(range(1000))])
def test_classes_are_those_of_the_written_rule(seed, class_ids) -> None:
    indices = np.array([0, 1, 2, 31, 2**32, 2**40 + 5])
    expected = [written_down(class_ids, seed, index) for index in indices.tolist()]
    assert draw_classes(class_ids, seed, indices).tolist() == expected


@pytest.mark.parametrize(
    ("count", "seed", "expected"),
    [(10, 0, [0, 0, 6, 5]), (10, 42, [3, 6, 6, 1]), (1000, 2**64 - 1, [258, 397, 943, 610])],
)
def test_classes_are_the_documented_ones(count, seed, expected) -> None:
    assert draw_classes(range(count), seed, np.arange(4)).tolist() == expected


def test_an_image_has_its_class_in_any_company() -> None:
    together = draw_classes(range(10), 3, np.arange(100))
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(draw_classes(range(10), 3, order), together[order])
    np.testing.assert_array_equal(draw_classes([*range(9, -1, -1)], 3, order), together[order])


def test_every_class_is_as_likely_as_the_others() -> None:
    drawn = draw_classes(range(10), 1, np.arange(100_000))
    assert stats.chisquare(np.bincount(drawn, minlength=10)).pvalue > 1e-3
