from __future__ import annotations

import pytest

from gmem_shared.ports import load


def test_an_import_string_finds_its_attribute() -> None:
    assert load("gmem_shared.types:DEFAULT_ALIAS") == "production"


@pytest.mark.parametrize(
    "target", ["", "gmem_shared", "gmem_shared:nothing", "no_such_module:x", ":x"]
)
def test_a_wrong_import_string_says_what_was_expected(target) -> None:
    with pytest.raises(ValueError, match="expected 'module:attribute'"):
        load(target)
