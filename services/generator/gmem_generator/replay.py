"""Replay tokens: everything one image depends on, as text a client can keep."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmem_generator.schemas import MAX_SEED, Row
from gmem_shared.errors import InvalidRequestError

_Pinned = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}@sha256-[0-9a-f]{64}$")]


class ReplayToken(BaseModel):
    """One image: bank version and row, model version, noise stream, sampler and steps."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1] = 1
    bank: _Pinned
    row: Row
    model: _Pinned
    seed: int = Field(ge=0, le=MAX_SEED)
    index: int = Field(ge=0, le=2**63 - 1)
    sampler: str = Field(min_length=1, max_length=64)
    steps: int = Field(ge=1)

    def encode(self) -> str:
        """Return the token as base64url text."""
        return base64.urlsafe_b64encode(self.model_dump_json().encode()).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> ReplayToken:
        """Read a token.

        Raises:
            InvalidRequestError: It is none of ours.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return cls.model_validate_json(raw)
        except (binascii.Error, ValidationError, ValueError) as error:
            raise InvalidRequestError(
                f"expected 'replay' to be a token of an earlier answer, found {text[:40]!r}…",
                errors=[{"field": "replay", "message": "not a replay token"}],
            ) from error
