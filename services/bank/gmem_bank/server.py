"""The bank service as a process: gRPC and HTTP over one in-process bank, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn
from prometheus_client import REGISTRY

from gmem_bank.access import Access
from gmem_bank.grpc_server import GrpcServer
from gmem_bank.http_app import create_app
from gmem_bank.local import LocalBank
from gmem_shared import tls
from gmem_shared.errors import NotReadyError
from gmem_shared.http_server import BoundedHttp
from gmem_shared.keys import Keyring
from gmem_shared.settings import Settings

_log = structlog.get_logger(__name__)

_HEALTH_SECONDS = 0.25
_GRACE_SECONDS = 10.0


class HttpServer(uvicorn.Server):
    """A uvicorn that leaves signals to its process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then refuse new calls, finish those in flight and return.

    Raises:
        NotReadyError: A port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bank = LocalBank.from_settings(settings)
    bank_settings = settings.bank
    security = settings.security
    keyring = Keyring(security.api_keys_file)
    keyring.announce(bank_settings.host)
    access = Access(keyring, REGISTRY)
    grpc_server = GrpcServer(
        bank.service,
        bank_settings.workers,
        bank_settings.host,
        bank_settings.grpc_port,
        guard=access.grpc(),
        credentials=tls.server_credentials(security),
    )
    http_server = HttpServer(
        uvicorn.Config(
            create_app(bank, REGISTRY, access, tls=security.tls_cert_file is not None),
            http=BoundedHttp,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(_GRACE_SECONDS),
            **tls.uvicorn_options(security),
        )
    )
    await bank.start()
    try:
        listener = _listen(bank_settings.host, bank_settings.http_port)
        grpc_server.start()
        http = asyncio.create_task(http_server.serve([listener]))
        _log.info("bank.serving", http_port=listener.getsockname()[1], grpc_port=grpc_server.port)
        await _follow_readiness(bank, grpc_server, http, stop)
        _log.info("bank.stopping")
        await asyncio.to_thread(grpc_server.stop, _GRACE_SECONDS)
        http_server.should_exit = True
        await http
    finally:
        await bank.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise NotReadyError(f"cannot listen on {host}:{port}: {error}") from error


async def _follow_readiness(
    bank: LocalBank, server: GrpcServer, http: asyncio.Task[None], stop: asyncio.Event
) -> None:
    """Keep the health service truthful until it is time to stop."""
    while not stop.is_set() and not http.done():
        try:
            await bank.check()
            server.set_serving(True)
        except NotReadyError:
            server.set_serving(False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _HEALTH_SECONDS)
