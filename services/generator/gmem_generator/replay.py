"""Replay tokens: everything one image depends on, as text a client can keep."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gmem_generator.schemas import MAX_SEED, GuidanceScale, Row
from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import ConditionKind

_Pinned = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}@sha256-[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayToken:
    """One image: model version, its condition, noise stream, sampler, steps and guidance.

    The condition is a row of a bank version, or a class id, or nothing. What is not given is left
    out of the text, so the tokens of GMem models are those of every release. Tokens are checked
    where they come in; ours need no check.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    v: Literal[1] = 1
    bank: _Pinned | None = None
    row: Row | None = None
    label: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    model: _Pinned
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    index: Annotated[int, Field(ge=0, le=2**63 - 1)]
    sampler: Annotated[str, Field(min_length=1, max_length=64)]
    steps: Annotated[int, Field(ge=1)]
    guidance_scale: GuidanceScale | None = None

    def encode(self) -> str:
        """Return the token as base64url text."""
        text = _TOKEN.dump_json(self, exclude_none=True)
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> ReplayToken:
        """Read a token.

        Raises:
            InvalidRequestError: It is none of ours.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return _TOKEN.validate_json(raw)
        except (binascii.Error, ValidationError, ValueError) as error:
            raise _not_ours(text) from error

    def check_condition(self, condition: ConditionKind) -> None:
        """Refuse a token that does not condition an image as its model does.

        Raises:
            InvalidRequestError: It gives too little or too much.
        """
        given = {name for name in ("bank", "row", "label") if getattr(self, name) is not None}
        if given != {"snippet": {"bank", "row"}, "label": {"label"}, "none": set()}[condition]:
            raise _not_ours(self.encode())


_TOKEN = TypeAdapter(ReplayToken)


def _not_ours(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"expected 'replay' to be a token of an earlier answer, found {text[:40]!r}…",
        errors=[{"field": "replay", "message": "not a replay token"}],
    )
