"""Operations that are called without routing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gmem_generator import problems
from gmem_generator.body import JsonRoute
from gmem_shared.errors import GmemError


class Direct:
    """ASGI middleware: a ``POST`` to one of ``routes``, by path, goes straight to its handler.

    The application behind it serves the same routes in the same way, more slowly: a request takes
    FastAPI 50 µs before anything of ours runs (docs/performance/front-end.md).
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, JsonRoute]) -> None:
        self._app = app
        self._routes = {path: (route, route.get_route_handler()) for path, route in routes.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST":
            found = self._routes.get(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], handle = found
        response = await _answer(handle, Request(scope, receive, send))
        await response(scope, receive, send)


async def _answer(handle: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await handle(request)
    except (GmemError, HTTPException, RequestValidationError) as error:
        return problems.answer(request, error)
