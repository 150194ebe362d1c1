"""Request bodies: limited in size, and JSON in the strict sense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gmem_shared.errors import InvalidRequestError
from gmem_shared.http_body import read_body

_EXACT = 2.0**53  # beyond, a float no longer says which integer was meant

_MAX_BRACKETS = 100  # three are meaningful; so the parser's recursion is bounded beforehand


class JsonRoute(APIRoute):
    """A route of ``endpoint(request, body)`` whose body is read by the rules of this module.

    FastAPI describes the operation. It does not run it: there is one body and no dependency, and
    solving for those takes longer than all the rest of a request (docs/performance/front-end.md).
    """

    max_bytes: ClassVar[int]

    @staticmethod
    def gate(scope: Scope, content: bytes) -> None:
        """Let a request pass, or raise what it is refused with."""

    @classmethod
    def behind(cls, gate: Callable[[Scope, bytes], None], max_bytes: int) -> type[JsonRoute]:
        """Return the route class for bodies of at most ``max_bytes`` that the gate lets pass.

        The gate sees a request and its body before anybody looks into that; see `gate`.
        """
        return type(cls.__name__, (cls,), {"max_bytes": max_bytes, "gate": staticmethod(gate)})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request.

        Raises:
            HTTPException: 415, the body is not said to be JSON.
            TooLargeError: The body exceeds the limit; no more than that is ever read.
            InvalidRequestError: The body is not JSON.
            RequestValidationError: It is not the JSON that the endpoint's annotation asks for.
        """
        endpoint, max_bytes, gate = self.endpoint, self.max_bytes, self.gate
        adapter = TypeAdapter(get_type_hints(endpoint, include_extras=True)["body"])

        def understand(scope: Scope, content: bytes) -> Any:
            gate(scope, content)
            document = parse(content)
            try:
                return adapter.validate_python(document)
            except ValidationError as error:
                raise RequestValidationError(_in_body(error)) from error

        async def handle(request: Request) -> Response:
            _require_json(request)
            body = understand(request.scope, await read_body(request, max_bytes))
            response: Response = await endpoint(request, body)
            return response

        return handle


def parse(body: bytes) -> Any:
    """Parse JSON as RFC 8259 has it: UTF-8, finite numbers, no name twice.

    Raises:
        InvalidRequestError: It is not; the message says where.
    """
    if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
        raise InvalidRequestError("expected a flat JSON object, found deep nesting")
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_number,
            parse_constant=_not_finite,
        )
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidRequestError(f"expected a JSON object, found broken JSON: {found}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"expected JSON in UTF-8, found an undecodable byte at offset {error.start}"
        ) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidRequestError("expected numbers of at most 64 bits, found a longer one") from (
            error
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in result if names.count(name) > 1)
        raise InvalidRequestError(f"expected each name once, found {twice[:100]!r} twice")
    return result


def _number(text: str) -> int | float:
    """JSON has one kind of number: ``7.0`` is the integer 7, as in JSON Schema."""
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _not_finite(text: str) -> None:
    raise InvalidRequestError(f"expected finite numbers, found {text[:40]}")


def _in_body(error: ValidationError) -> list[dict[str, Any]]:
    found = error.errors(include_url=False)
    return [{**details, "loc": ("body", *details["loc"])} for details in found]


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(
            415,
            f"expected 'Content-Type: application/json', found {media_type[:100]!r}; "
            "with curl, add -H 'Content-Type: application/json'",
        )
