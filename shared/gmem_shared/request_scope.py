"""Around every HTTP request: its id, the log event, the metrics, the headers, the last resort."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from gmem_shared import tracing
from gmem_shared.errors import GmemError, InternalError
from gmem_shared.guard import PRINCIPAL, AsgiApp, AsgiScope
from gmem_shared.keys import ANONYMOUS

_PROBES = {"/livez", "/readyz", "/metrics"}
"""Asked every few seconds; logged only on request."""

_log = structlog.get_logger(__name__)

STARTED = "gmem.started"
"""Member of the scope: when the request came in, ``time.monotonic`` seconds."""


def _uncounted(route: str, status: int, seconds: float) -> None:
    """Count nothing."""


class RequestScope:
    """ASGI middleware; outermost, so that nothing leaves without its headers.

    Args:
        app: What is served.
        headers: Of every answer.
        respond: Makes the answer out of an error.
        begins: Whether a trace begins here if none came along.
        finished: Called with the route, the status and the seconds of each request.
        leaving: Whether the server is about to stop.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        headers: Iterable[tuple[bytes, bytes]],
        respond: Callable[[GmemError], AsgiApp],
        begins: bool,
        finished: Callable[[str, int, float], None] = _uncounted,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app = app
        self._headers = list(headers)
        self._respond = respond
        self._begins = begins
        self._finished = finished
        self._leaving = leaving

    async def __call__(self, scope: AsgiScope, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = _carrier(scope)
        request_id = carrier[tracing.REQUEST_ID]
        status = 0
        started = scope[STARTED] = time.monotonic()

        async def send_with_headers(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                identity = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], identity, *self._headers]
                if self._leaving():  # the next request had better take another connection
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        begins = self._begins and scope["path"] not in _PROBES
        with tracing.serving(scope["path"], carrier, begins=begins) as span:
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:
                _log.exception("request.failed", path=scope["path"])
                if status:
                    raise  # too late for a status: the server cuts the connection
                error = InternalError("the server failed on this request; its log has the details")
                await self._respond(error)(scope, receive, send_with_headers)
            finally:
                route = self._account(scope, status, time.monotonic() - started)
                if span is not None:
                    tracing.answered(span, f"{scope['method']} {route}", status)

    def _account(self, scope: AsgiScope, status: int, seconds: float) -> str:
        """Count and log a request; return its route."""
        route: str = getattr(scope.get("route"), "path", "other")
        self._finished(route, status, seconds)
        principal = scope.get(PRINCIPAL, ANONYMOUS)
        _log.log(
            logging.DEBUG if route in _PROBES else logging.INFO,
            "request.finished",
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            **({} if principal is ANONYMOUS else {"caller": principal.id}),
        )
        return route


_REQUEST_ID, _TRACEPARENT = tracing.REQUEST_ID.encode(), tracing.TRACEPARENT.encode()


def _carrier(scope: AsgiScope) -> dict[str, str]:
    """Return what came along with a request; one without a good id gets one."""
    headers = dict(reversed(scope["headers"]))  # of several, the first counts
    offered = headers.get(_REQUEST_ID, b"").decode("latin-1")
    carrier = {tracing.REQUEST_ID: offered if tracing.is_id(offered) else uuid.uuid4().hex}
    if traceparent := headers.get(_TRACEPARENT):
        carrier[tracing.TRACEPARENT] = traceparent.decode("latin-1")
    return carrier
