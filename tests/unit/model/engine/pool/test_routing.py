"""Which process makes what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmem_model.engine.pool.routing import cost_per_row, divide, is_among, may_be_divided
from gmem_shared.types import Reference, VersionRef
from tests.support.engine import make_task

DIGEST = f"sha256-{'0' * 64}"


@pytest.mark.parametrize(
    ("rows", "backlogs", "shares"),
    [
        (1, [0, 0], [1, 0]),
        (7, [0, 0], [7, 0]),
        (8, [0, 0], [4, 4]),
        (9, [0, 0], [5, 4]),
        (1, [10, 0], [0, 1]),
        (100, [10_000, 0], [0, 100]),
        (100, [200, 0], [40, 60]),
        (12, [0, 0, 0], [4, 4, 4]),
        (11, [0, 0, 0], [6, 5, 0]),
        (30, [0, 1000, 0], [15, 0, 15]),
        (0, [3, 2], [0, 0]),
    ],
)
def test_rows_go_where_there_is_least_to_do(rows, backlogs, shares) -> None:
    assert divide(rows, cost=10, backlogs=backlogs) == shares


@given(
    rows=st.integers(1, 5000),
    cost=st.integers(1, 1000),
    backlogs=st.lists(st.integers(0, 10**7), min_size=1, max_size=16),
)
def test_every_row_is_made_once_and_no_part_is_small(rows, cost, backlogs) -> None:
    shares = divide(rows, cost, backlogs)
    assert sum(shares) == rows
    parts = [share for share in shares if share]
    assert min(shares) >= 0
    assert len(parts) == 1 or min(parts) >= 4


@given(
    rows=st.integers(64, 5000),
    cost=st.integers(1, 1000),
    backlogs=st.lists(st.integers(0, 10**7), min_size=2, max_size=8),
)
def test_a_division_ends_no_later_than_the_least_loaded_process_alone(rows, cost, backlogs) -> None:
    shares = divide(rows, cost, backlogs)
    ends = [b + share * cost for b, share in zip(backlogs, shares, strict=True) if share]
    assert max(ends) <= min(backlogs) + rows * cost


def test_a_row_weighs_its_steps() -> None:
    assert cost_per_row(make_task(num_steps=7)) == 7
    assert cost_per_row(make_task()) > 0


@pytest.mark.parametrize(
    ("selector", "divided"), [("production", False), ("3", True), (DIGEST, True)]
)
def test_only_a_pinned_version_is_divided(selector, divided) -> None:
    assert may_be_divided(Reference("tiny", selector)) == divided


@pytest.mark.parametrize(
    ("reference", "found"),
    [("a@2", True), ("a@3", False), (f"a@{DIGEST}", True), ("a@production", True), ("b@2", False)],
)
def test_a_version_is_found_by_number_digest_and_alias(reference, found) -> None:
    assert is_among({VersionRef("a", 2, DIGEST)}, Reference.parse(reference)) == found
