"""A uvicorn server that drains: on a signal it answers on, takes nothing new, then exits 0."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from gmem_generator.lifecycle import Drain
from gmem_generator.readiness import Readiness
from gmem_shared import tls
from gmem_shared.http_server import BoundedHttp
from gmem_shared.settings import SecuritySettings

_log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.2
_LAST_BYTES_SECONDS = 5


class DrainingServer(uvicorn.Server):
    """Serves an application of `create_app`.

    On the first SIGTERM or SIGINT ``/readyz`` turns 503. After ``leave_seconds``, in which a load
    balancer finds that out, new work is refused, and work in flight has ``drain_seconds`` to
    finish; health and reads are answered until then. A second signal stops at once.

    Args:
        announce: Called with the address once every part is ready.
        security: Says whether to speak TLS.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        host: str,
        port: int,
        leave_seconds: float,
        drain_seconds: float,
        announce: Callable[[str], None],
        security: SecuritySettings | None = None,
    ) -> None:
        encryption = {} if security is None else tls.uvicorn_options(security)
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=BoundedHttp,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here depends on them
                timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
                **encryption,
            )
        )
        self._drain: Drain = app.state.drain
        self._readiness: Readiness = app.state.readiness
        self._leave_seconds = leave_seconds
        self._drain_seconds = drain_seconds
        self._drain_from = self._drain_until = float("inf")
        self._announce = announce
        self._announcing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave; on a second signal, stop."""
        if self._drain.leaving:
            self.should_exit = self.force_exit = True
            return
        self._drain.leave()
        self._drain_from = time.monotonic() + self._leave_seconds
        self._drain_until = self._drain_from + self._drain_seconds
        if not self._leave_seconds:
            self._drain.begin()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and announce the address when every part is ready."""
        await super().startup(sockets)
        self._announcing = asyncio.create_task(self._announce_when_ready())

    async def on_tick(self, counter: int) -> bool:
        """Decide, ten times a second, whether to stop."""
        if self._drain.leaving and time.monotonic() > self._drain_from:
            self._drain.begin()
        if self._drain.started:
            if time.monotonic() > self._drain_until:
                _log.warning("server.drain.expired", seconds=self._drain_seconds)
                self._drain.expire()
                return True
            if self._drain.idle:
                return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Send the last bytes, close bank and engine."""
        if self._announcing is not None:
            self._announcing.cancel()
        await super().shutdown(sockets)

    async def _announce_when_ready(self) -> None:
        reasons: dict[str, str | None] = {}
        while True:
            parts, wait = await self._readiness.parts()
            if wait is None:
                break
            found = {name: part.reason for name, part in parts.items() if not part.ready}
            if found != reasons:
                _log.info("server.waiting", **found)
                reasons = found
            await asyncio.sleep(_POLL_SECONDS)
        # What was loaded stays: without it, a full collection takes a millisecond, not a hundred.
        gc.collect()
        gc.freeze()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 (reads it)
        scheme = "https" if self.config.is_ssl else "http"
        self._announce(f"{scheme}://{shown}:{port}")
