"""Canonical JSON: one value, one sequence of bytes, hence one digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gmem_shared.errors import InvalidRequestError


def to_json(value: Any) -> bytes:
    """Encode as UTF-8 JSON with sorted keys and no white space.

    Raises:
        InvalidRequestError: The value has no JSON form (NaN and infinity have none).
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"expected a value that JSON can hold: {error}") from error


def digest_of(data: bytes) -> str:
    """Return the digest ``sha256-<hex>`` of bytes."""
    return f"sha256-{hashlib.sha256(data).hexdigest()}"
