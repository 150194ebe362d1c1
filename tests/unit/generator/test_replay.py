from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmem_generator.replay import ReplayToken
from gmem_shared.errors import InvalidRequestError

DIGEST = "sha256-" + "0" * 64
TOKEN = ReplayToken(
    bank=f"digits@{DIGEST}", row=3, model=f"digits@{DIGEST}", seed=2**64 - 1, index=5,
    sampler="heun", steps=16,
)  # fmt: skip


def test_a_token_survives_the_journey() -> None:
    assert ReplayToken.decode(TOKEN.encode()) == TOKEN
    assert TOKEN.encode().isascii()
    assert "=" not in TOKEN.encode()


def forged(old: str, new: str) -> str:
    text = TOKEN.model_dump_json()
    assert old in text
    return base64.urlsafe_b64encode(text.replace(old, new).encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "abc",
        "!!!",
        "é",
        TOKEN.encode()[:-4],
        base64.urlsafe_b64encode(b"[]").decode(),
        forged('"v":1', '"v":2'),
        forged(DIGEST, "production"),
        forged('"steps":16', '"steps":"16"'),
        forged('"steps":16', '"steps":16,"more":1'),
    ],
)
def test_what_is_no_token_of_ours_is_refused(text) -> None:
    with pytest.raises(InvalidRequestError, match="token of an earlier answer"):
        ReplayToken.decode(text)


@given(st.text(max_size=50))
def test_any_text_is_refused(text) -> None:
    with pytest.raises(InvalidRequestError):
        ReplayToken.decode(text)
