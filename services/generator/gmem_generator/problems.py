"""Every failure leaves as ``application/problem+json``; nothing else formats an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from structlog.contextvars import get_contextvars

from gmem_generator.validation import to_error
from gmem_shared.errors import GmemError, to_headers, to_problem

MEDIA_TYPE = "application/problem+json"

# What the router and the negotiation refuse before any of our own errors can arise.
_HTTP = {
    404: ("no_such_path", "No such path"),
    405: ("method_not_allowed", "Method not allowed"),
    406: ("not_acceptable", "No acceptable representation"),
    415: ("unsupported_media_type", "Unsupported media type"),
}


class ProblemResponse(Response):
    """A problem as a response; ASCII JSON, so that no lone surrogate can break it."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        request_id = get_contextvars().get("request_id")
        if request_id is not None:
            problem = {**problem, "request_id": request_id}
        super().__init__(json.dumps(problem), status_code=problem["status"], headers=headers)


def of_error(error: GmemError, **extensions: Any) -> ProblemResponse:
    """Answer with an error of the product; ``extensions`` are further members."""
    return ProblemResponse({**to_problem(error), **extensions}, to_headers(error))


def of_status(error: HTTPException) -> ProblemResponse:
    """Answer with a bare HTTP status, as routing raises it."""
    code, title = _HTTP.get(error.status_code, ("http_error", "HTTP error"))
    problem = {
        "type": f"urn:gmem:error:{code}",
        "title": title,
        "status": error.status_code,
        "detail": error.detail,
        "code": code,
        "error": {"message": error.detail, "type": code, "param": None, "code": code},
    }
    return ProblemResponse(problem, error.headers)


def answer(request: Request, error: Exception) -> Response:
    """Answer with whatever a route or the router can raise."""
    match error:
        case GmemError():
            return of_error(error)
        case RequestValidationError():
            return of_error(to_error(error))
        case HTTPException():
            return of_status(_explained(request, error))
        case _:
            raise error


def install(app: FastAPI) -> None:
    """Register the handler for every exception that `answer` knows."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer(request, error)

    for kind in (GmemError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)


def _explained(request: Request, error: HTTPException) -> HTTPException:
    path = request.url.path[:200]
    if error.status_code == 404:
        detail = f"expected a path of this API, found {path!r}; GET /docs lists them"
    elif error.status_code == 405:
        allowed = _methods(request, error)
        detail = f"expected {allowed} for {path!r}, found {request.method[:20]}"
        return HTTPException(405, detail, {"Allow": allowed})
    else:
        return error
    return HTTPException(error.status_code, detail, error.headers)


def _methods(request: Request, error: HTTPException) -> str:
    """Return the methods of a path; the router names those of the first of its routes only."""
    path = getattr(request.scope.get("route"), "path", None)
    operations = request.app.openapi()["paths"].get(path)
    if operations is None:
        return (error.headers or {}).get("Allow", "another method")
    return ", ".join(sorted(map(str.upper, operations)))
