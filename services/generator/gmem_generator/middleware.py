"""Around every request: its id, the log event, the metrics, the headers, the last resort."""

from __future__ import annotations

import logging
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gmem_generator.lifecycle import Drain
from gmem_generator.metrics import Metrics
from gmem_generator.problems import of_error
from gmem_shared import tracing
from gmem_shared.errors import InternalError
from gmem_shared.guard import PRINCIPAL
from gmem_shared.keys import ANONYMOUS, PREFIX
from gmem_shared.security_headers import security_headers

_PROBES = {"/livez", "/readyz", "/metrics"}
"""Asked every few seconds; logged only on request."""

_log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rf"(?!{PREFIX})[A-Za-z0-9._-]{{1,64}}")
"""Never an API key: the id is logged and sent back."""

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

STARTED = "gmem.started"
"""Member of the scope: when the request came in, ``time.monotonic`` seconds."""


class RequestScope:
    """ASGI middleware; outermost, so that nothing leaves without its headers.

    Args:
        app: What is served.
        metrics: Counts the requests.
        drain: Knows when the server is about to stop.
        tls: Whether the server speaks TLS.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, drain: Drain, *, tls: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain
        self._headers = security_headers(_CONTENT_POLICY, tls=tls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = _carrier(scope)
        request_id = carrier[tracing.REQUEST_ID]
        status = 0
        started = scope[STARTED] = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                identity = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], identity, *self._headers]
                if self._drain.leaving:  # the next request had better take another connection
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        probe = scope["path"] in _PROBES
        with tracing.serving(scope["path"], carrier, begins=not probe) as span:
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:
                _log.exception("request.failed", path=scope["path"])
                if status:
                    raise  # too late for a status: the server cuts the connection
                error = InternalError("the server failed on this request; its log has the details")
                await of_error(error)(scope, receive, send_with_headers)
            finally:
                route = self._account(scope, status, time.monotonic() - started)
                if span is not None:
                    tracing.answered(span, f"{scope['method']} {route}", status)

    def _account(self, scope: Scope, status: int, seconds: float) -> str:
        """Count and log a request; return its route."""
        route: str = getattr(scope.get("route"), "path", "other")
        self._metrics.finished(route, status, seconds)
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


def _carrier(scope: Scope) -> dict[str, str]:
    """Return what came along with a request; one without a good id gets one."""
    headers = Headers(scope=scope)
    offered = headers.get(tracing.REQUEST_ID, "")
    good = _REQUEST_ID.fullmatch(offered)
    carrier = {tracing.REQUEST_ID: offered if good else uuid.uuid4().hex}
    if traceparent := headers.get(tracing.TRACEPARENT):
        carrier[tracing.TRACEPARENT] = traceparent
    return carrier
