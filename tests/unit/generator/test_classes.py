from __future__ import annotations

from dataclasses import replace

import pytest

from gmem_generator.classes import find_class
from gmem_shared.errors import UnknownClassError
from tests.support.fakes import FakeBackend, FakeBank


@pytest.fixture(params=["bank", "model"])
async def owner(request):
    """Classes of a bank, or of a model that takes a label."""
    if request.param == "bank":
        return await FakeBank().describe("digits")
    return await FakeBackend().describe("sit")


@pytest.mark.parametrize("label", [7, "seven", "SEVEN", "Seven", "n00000007"])
async def test_a_class_is_found_by_id_name_or_alias_in_any_case(owner, label) -> None:
    assert find_class(owner, label).id == 7


@pytest.mark.parametrize(
    ("label", "nearest"), [("sevn", "'seven'"), ("THREA", "'three'"), ("n00000077", "'n00000007'")]
)
async def test_an_unknown_name_is_answered_with_the_nearest(owner, label, nearest) -> None:
    with pytest.raises(UnknownClassError, match=nearest):
        find_class(owner, label)


async def test_an_unknown_name_is_answered_with_where_the_known_ones_are() -> None:
    with pytest.raises(UnknownClassError, match=r"of bank .* GET /classes\?bank=digits@1"):
        find_class(await FakeBank().describe("digits"), "sevn")
    with pytest.raises(UnknownClassError, match=r"of model .* GET /classes\?model=sit@3"):
        find_class(await FakeBackend().describe("sit"), "sevn")


async def test_a_bank_without_labels_says_that_there_is_no_class_to_name() -> None:
    unlabelled = replace(await FakeBank().describe("digits"), classes=())
    with pytest.raises(UnknownClassError, match=r"bank digits@1 has none, .* leave it out"):
        find_class(unlabelled, "seven")


@pytest.mark.parametrize("label", [10, -1, 10**30, "", "\ud800", "x" * 100_000])
async def test_whatever_is_no_class_is_an_unknown_one(owner, label) -> None:
    with pytest.raises(UnknownClassError, match="ids 0 to 9"):
        find_class(owner, label)
