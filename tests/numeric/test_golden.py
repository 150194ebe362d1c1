"""Every number agrees with the original implementations."""

import importlib
from pathlib import Path

import pytest

from tests.numeric.golden_cases import HANDLERS, GoldenCase, cases

for module in sorted(Path(__file__).parent.glob("golden_*.py")):
    importlib.import_module(f"{__package__}.{module.stem}")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_reproduces(case: GoldenCase) -> None:
    case.check(HANDLERS[case.pair](case))


def test_golden_index_holds_no_kind_of_case_without_a_handler() -> None:
    assert {case.pair for case in cases()} <= HANDLERS.keys()
