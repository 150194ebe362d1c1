"""A real tritonserver with a small model, and clients for it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil

from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_server import region_prefix, remove_stale_regions
from gmem_shared.settings import TritonSettings
from tests.support.stack import Stack

DEFAULT_MODEL = "tiny@production"


class TritonServer(Stack):
    """One ``gmem triton serve`` process on free ports; its store holds ``DEFAULT_MODEL``.

    ``extra`` are further environment variables, or others.
    """

    def __init__(self, store_url: str, directory: Path, **extra: str) -> None:
        super().__init__(
            store_url,
            directory,
            embedded=False,
            extra={"GMEM_GENERATOR__DEFAULT_MODEL": DEFAULT_MODEL} | extra,
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return ("triton",)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['triton_grpc']}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['triton_http']}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['triton_metrics']}"

    @property
    def region_prefix(self) -> str:
        return region_prefix(TritonSettings(grpc_port=self.ports["triton_grpc"]))

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.processes["triton"].pid)

    @property
    def stub(self) -> psutil.Process:
        """The process that holds the engine."""
        (stub,) = self.process.children()
        return stub

    def is_ready(self) -> bool:
        if (status := self.processes["triton"].poll()) is not None:
            raise AssertionError(f"tritonserver ended with {status}\n{self.logs()}")
        return self.probe().returncode == 0

    def probe(self) -> subprocess.CompletedProcess[str]:
        """``gmem triton probe``."""
        return subprocess.run(
            [sys.executable, "-m", "gmem_shared", "triton", "probe"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server's process without closing its connections, as a network fault would."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_triton(store_url: str, directory: Path, **extra: str) -> Iterator[TritonServer]:
    """A server that answers; its processes are gone afterwards, whatever happened."""
    directory.mkdir(parents=True, exist_ok=True)
    server = TritonServer(store_url, directory, **extra)
    try:
        server.start()
        yield server
    finally:
        server.kill("triton")
        remove_stale_regions(server.region_prefix)


@contextlib.asynccontextmanager
async def client(
    server: TritonServer, *, heartbeat_seconds: float = 5.0
) -> AsyncIterator[TritonBackend]:
    """A started backend for the server."""
    backend = TritonBackend(server.address, heartbeat_seconds=heartbeat_seconds)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()
