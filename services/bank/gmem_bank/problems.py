"""Every failure of the HTTP door is an RFC 9457 problem."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gmem_shared import tracing
from gmem_shared.errors import (
    GmemError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    to_headers,
    to_problem,
)
from gmem_shared.http_body import read_body, too_large

_MAX_BYTES = 2 << 20
_MAX_VALUES = 1 << 18
"""Numbers of a body. The event loop does nothing else while it reads them; gRPC takes more."""
_ADVICE = "; send several requests, or use gRPC"
_RANGE = frozenset({"greater_than_equal", "less_than_equal", "too_short", "too_long"})
_MAX_ERRORS = 10


class LimitedRoute(APIRoute):
    """A route for bodies that are soon read; larger ones are refused before they are parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler; raises `TooLargeError` or `CancelledError`."""
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            request._body = await _read(request)
            return await handle(request)

        return handle_limited


async def _read(request: Request) -> bytes:
    body = await read_body(request, _MAX_BYTES, _ADVICE)
    if body.count(b",") >= _MAX_VALUES:
        raise too_large(f"{_MAX_VALUES} values", _ADVICE)
    return body


def install(app: FastAPI) -> None:
    """Answer our errors, invalid input and unknown routes alike as problems."""
    app.add_exception_handler(GmemError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_status)


def respond(
    error: GmemError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with an error."""
    problem = to_problem(error)
    problem["status"] = status or problem["status"]
    if (request_id := tracing.request_id()) is not None:
        problem["request_id"] = request_id
    return Response(
        json.dumps(problem),
        problem["status"],
        {**to_headers(error), **(headers or {})},
        media_type="application/problem+json",
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GmemError)  # noqa: S101 (the registration says so)
    return respond(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    fields = [_field_error(item) for item in found[:_MAX_ERRORS]]
    detail = "; ".join(f"{field['field'] or 'body'}: {field['message']}" for field in fields[:3])
    out_of_range = all(item["type"] in _RANGE for item in found)
    return respond(
        (OutOfRangeError if out_of_range else InvalidRequestError)(detail, errors=fields)
    )


def _field_error(item: Any) -> dict[str, str]:
    field = ".".join(str(part)[:100] for part in item["loc"][1:])
    message = item["msg"].replace("Input should be", "expected")
    return {"field": field, "message": f"{message}, found {reprlib.repr(item['input'])}"}


async def _on_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    error_class = NotFoundError if error.status_code == 404 else InvalidRequestError
    asked = f"{request.method} {request.url.path[:200]}"
    detail = f"{asked}: {error.detail}; GET /openapi.json lists the paths"
    return respond(error_class(detail), error.status_code, error.headers)
