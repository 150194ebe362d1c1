"""uvicorn's HTTP, for clients that nobody knows yet: what they may send until then is bounded."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10
"""Largest head of a request, not counting what came with its first read."""
HEAD_SECONDS = 10.0
"""How long a connection is kept on which nothing is answered and no head becomes complete."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\n"
    b"connection: close\r\n"
    b"\r\n"
)


class BoundedHttp(HttpToolsProtocol):
    """Ends connections whose request has too large a head, or one that takes too long.

    uvicorn has no bound of its own for either. What may follow a chunked body is bounded alike.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending = 0
        """Bytes read since a head began or a part of a body came."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what was read."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > HEAD_BYTES:
            self._refuse()
        elif self._answering:
            self._wait_no_more()
        elif self._timer is None:
            self._wait()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._pending = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._pending = 0
        super().on_body(body)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self) -> None:
        if not self._answering:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
