from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gmem_generator.replay import ReplayToken
from gmem_shared.errors import InvalidRequestError

DIGEST = "sha256-" + "0" * 64
TOKEN = ReplayToken(
    bank=f"digits@{DIGEST}", row=3, model=f"digits@{DIGEST}", seed=2**64 - 1, index=5,
    sampler="heun", steps=16,
)  # fmt: skip
NO_ROW = {"bank": None, "row": None}


def test_a_token_survives_the_journey() -> None:
    assert ReplayToken.decode(TOKEN.encode()) == TOKEN
    assert TOKEN.encode().isascii()
    assert "=" not in TOKEN.encode()


def test_a_token_of_an_earlier_release_is_read_and_written_the_same() -> None:
    text = (
        f'{{"v":1,"bank":"digits@{DIGEST}","row":3,"model":"digits@{DIGEST}",'
        f'"seed":{2**64 - 1},"index":5,"sampler":"heun","steps":16}}'
    )
    earlier = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    assert ReplayToken.decode(earlier) == TOKEN
    assert TOKEN.encode() == earlier


@pytest.mark.parametrize(
    ("changes", "condition"),
    [({}, "snippet"), ({**NO_ROW, "label": 7, "guidance_scale": 4.0}, "label"), (NO_ROW, "none")],
)
def test_a_token_fits_its_models_condition_alone(changes, condition) -> None:
    token = ReplayToken.decode(replace(TOKEN, **changes).encode())
    token.check_condition(condition)
    for other in {"snippet", "label", "none"} - {condition}:
        with pytest.raises(InvalidRequestError, match="token of an earlier answer"):
            token.check_condition(other)


@pytest.mark.parametrize("changes", [{"bank": None}, {"row": None}, {"label": 7}])
def test_half_a_row_or_a_row_with_a_label_is_no_condition(changes) -> None:
    token = replace(TOKEN, **changes)
    for condition in ("snippet", "label", "none"):
        with pytest.raises(InvalidRequestError):
            token.check_condition(condition)


def forged(old: str, new: str) -> str:
    text = TypeAdapter(ReplayToken).dump_json(TOKEN).decode()
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
        forged('"label":null', '"label":-1'),
        forged('"guidance_scale":null', '"guidance_scale":-1.0'),
    ],
)
def test_what_is_no_token_of_ours_is_refused(text) -> None:
    with pytest.raises(InvalidRequestError, match="token of an earlier answer"):
        ReplayToken.decode(text)


@given(st.text(max_size=50))
def test_any_text_is_refused(text) -> None:
    with pytest.raises(InvalidRequestError):
        ReplayToken.decode(text)
