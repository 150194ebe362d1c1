"""Every number agrees with the original implementations."""

import pytest

from tests.numeric import golden_common, golden_v1
from tests.numeric.golden_cases import HANDLERS, GoldenCase, cases, index

FAMILIES = {golden_v1.SIT, golden_v1.SELECT, golden_common.COMMON}

NOT_YET_IMPLEMENTED = frozenset(
    {"sit-original", "repa-sit", "gmem-v2-lightningdit", "gmem-v2-bank", "edm2", "vavae", "ckpt"}
)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_reproduces(case: GoldenCase) -> None:
    handler = HANDLERS.get((case.family, case.kind))
    assert handler is not None, f"no handler for {case.kind!r} of family {case.family!r}"
    case.check(handler(case))


def test_golden_index_holds_no_family_without_an_owner() -> None:
    families = {file["family"] for file in index()["files"]}
    assert families - NOT_YET_IMPLEMENTED == {family for family, _ in HANDLERS} == FAMILIES
