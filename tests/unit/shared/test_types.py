from __future__ import annotations

import pytest

from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import Reference


@pytest.mark.parametrize(
    ("text", "name", "selector"),
    [
        ("digits", "digits", "production"),
        ("digits@production", "digits", "production"),
        ("digits@3", "digits", "3"),
        ("digits@sha256-0a1b", "digits", "sha256-0a1b"),
        ("a.b_c-d@X", "a.b_c-d", "X"),
    ],
)
def test_a_reference_names_a_bank_or_model_and_a_version(text, name, selector) -> None:
    assert Reference.parse(text) == Reference(name, selector)


@pytest.mark.parametrize(
    "text", ["", "@1", "Digits", "../etc", "digits@../x", "digits@@", "d/x", "x" * 64, "é", "a@b c"]
)
def test_anything_else_is_refused_with_an_example(text) -> None:
    with pytest.raises(InvalidRequestError, match="expected a reference like 'digits'"):
        Reference.parse(text)


def test_a_reference_prints_as_it_is_written() -> None:
    assert str(Reference.parse("digits")) == "digits@production"
