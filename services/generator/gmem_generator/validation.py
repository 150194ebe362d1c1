"""Pydantic's findings, told field by field: expected, found, and the nearest name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from fastapi.exceptions import RequestValidationError

from gmem_generator.schemas import GenerateRequest, Memory, ReplayRequest
from gmem_shared.errors import GmemError, InvalidRequestError, OutOfRangeError

MAX_ERRORS = 20
_RANGE = frozenset(
    {"greater_than_equal", "less_than_equal", "too_short", "too_long"}
    | {"string_too_short", "string_too_long"}
)
_WORDING = {
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "string_pattern_mismatch": "expected a reference such as digits, digits@production, digits@3",
}
_FIELDS = {
    ("generate",): tuple(GenerateRequest.model_fields),
    ("replay",): tuple(ReplayRequest.model_fields),
    ("generate", "memory"): tuple(Memory.model_fields),
}


def to_error(invalid: RequestValidationError) -> GmemError:
    """Turn a failed validation into 422 if only ranges are violated, else 400."""
    found = invalid.errors()
    errors = [_field_error(error) for error in found[:MAX_ERRORS]]
    summary = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:3])
    if len(found) > 3:
        summary += f"; and {len(found) - 3} more"
    out_of_range = all(error["type"] in _RANGE for error in found)
    return (OutOfRangeError if out_of_range else InvalidRequestError)(summary, errors=errors)


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known names most like ``name``, best first, ignoring case."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower()[:100], by_lower, n=count, cutoff=0.6)
    return [by_lower[match] for match in matches]


def _field_error(error: dict[str, Any]) -> dict[str, str]:
    path = tuple(error["loc"][1:])  # without "body" or "query"
    shown = path[1:] if path[:1] in _FIELDS else path
    field = ".".join(str(part)[:100] for part in shown) or "body"
    return {"field": field, "message": _message(error, path)}


def _message(error: dict[str, Any], path: tuple[Any, ...]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(str(path[-1]), _FIELDS.get(path[:-1], ()))
    if error["type"] == "missing":
        return "expected a value, found none"
    context = error.get("ctx", {})
    wording = _WORDING.get(error["type"])
    message = wording.format(**context) if wording else error["msg"]
    message = message.replace("Input should be", "expected")
    found = json.dumps(error["input"], default=repr)[:80]
    return message if "found" in message else f"{message}, found {found}"


def _unknown(name: str, fields: tuple[str, ...]) -> str:
    close = nearest(name, fields, count=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(fields)}"
    return f"unknown field; {hint}"
