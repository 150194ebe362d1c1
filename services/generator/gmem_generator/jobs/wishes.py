"""What a client wishes beyond an answer: a job instead of it, or the same one as before."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.types import Scope

from gmem_shared.errors import InvalidRequestError
from gmem_shared.guard import PRINCIPAL
from gmem_shared.keys import Principal

RESPOND_ASYNC = "respond-async"
"""RFC 7240, section 4.1."""

_HEADERS = frozenset({b"prefer", b"idempotency-key"})
_KEY = re.compile(r'"?([!#-~]{1,255})"?')


@dataclass(frozen=True, slots=True)
class Wishes:
    """``job``: answer with a job. ``key``: answer as before to a request with this key."""

    job: bool
    key: str | None


def wishes(scope: Scope) -> Wishes | None:
    """Read the headers ``Prefer`` and ``Idempotency-Key``; nearly all requests have neither.

    Raises:
        InvalidRequestError: The key is none.
    """
    found = [header for header in scope["headers"] if header[0] in _HEADERS]
    return _read(found) if found else None


def caller(scope: Scope) -> str:
    """Return the id of who asks: to others, jobs and keys do not exist."""
    principal: Principal = scope[PRINCIPAL]
    return principal.id


def _read(headers: list[tuple[bytes, bytes]]) -> Wishes | None:
    preferences = ",".join(v.decode("latin-1") for name, v in headers if name == b"prefer")
    job = any(p.strip().lower() == RESPOND_ASYNC for p in re.split("[,;]", preferences))
    keys = [value.decode("latin-1") for name, value in headers if name == b"idempotency-key"]
    key = _key(keys) if keys else None
    return Wishes(job, key) if job or key else None


def _key(found: list[str]) -> str:
    match = _KEY.fullmatch(found[0].strip())
    if len(found) > 1 or match is None:
        raise InvalidRequestError(
            "expected one 'Idempotency-Key' of 1 to 255 visible ASCII characters, such as a UUID, "
            f"found {', '.join(found)[:100]!r}"
        )
    return match[1]
