"""Around every HTTP answer of the bank: the security headers, and the last resort."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gmem_bank import problems
from gmem_shared.errors import InternalError
from gmem_shared.security_headers import security_headers


class Surround:
    """ASGI middleware; outermost, so that nothing leaves without its headers.

    Args:
        app: What is served.
        tls: Whether the server speaks TLS.
    """

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self._app = app
        self._headers = security_headers(tls=tls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a defect is answered, and raised again for the log."""
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if scope["type"] == "http" and not begun:
                error = InternalError("a defect of the bank service; its log has the details")
                await problems.respond(error)(scope, receive, send_with_headers)
            raise
