from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmem_generator.body import parse
from gmem_shared.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "line 1, column 1"),
        (b'{"seed": }', "line 1, column 10"),
        (b'{"seed": NaN}', "NaN"),
        (b'{"seed": -Infinity}', "-Infinity"),
        (b'{"seed": 1e999}', "1e999"),
        (b'{"seed": 1, "seed": 2}', "'seed' twice"),
        (b'{"memory": {"rows": [1], "rows": [2]}}', "'rows' twice"),
        (b'{"seed": "\xff"}', "offset 10"),
        (b"[" * 100_000, "deep nesting"),
        (b"1" * 10_000, "longer"),
        ('{"seed": 1}'.encode("utf-16"), "offset 0"),
    ],
)
def test_what_is_not_json_is_refused_and_said_why(body, says) -> None:
    with pytest.raises(InvalidRequestError, match="expected") as refused:
        parse(body)
    assert says in refused.value.detail


@pytest.mark.parametrize(
    ("text", "number"),
    [(b"7", 7), (b"7.0", 7), (b"1e9", 10**9), (b"7.5", 7.5), (b"1e16", 1e16), (b"-0.0", 0)],
)
def test_json_has_one_kind_of_number(text, number) -> None:
    assert parse(text) == number
    assert type(parse(text)) is type(number)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(body) -> None:
    try:
        parse(body)
    except InvalidRequestError as error:
        refusal = error.detail
    else:
        refusal = "expected nothing else"
    assert refusal.startswith("expected")
