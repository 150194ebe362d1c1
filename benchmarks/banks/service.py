"""The bank service as a process, and the client of it in this one."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.harness.servers import free_port
from gmem_shared import rpc
from gmem_shared.clients.bank import BankClient
from gmem_shared.errors import NotReadyError

_START_SECONDS = 120.0


class Service:
    """A running bank service; its calls are timed one after another, in one event loop."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self.client = BankClient(address, timeout_seconds=60)
        self._runner.run(self.client.start())
        self._health = self._runner.run(_connect(address))

    def seconds(self, calls: int, call: Callable[[int], Awaitable[object]]) -> float:
        """Return the median seconds of a call, given its number."""
        return statistics.median(self._runner.run(_timed(calls, call)))

    async def empty(self, number: int) -> None:
        """Do what any call does, and nothing else: the health check."""
        await self._health.Check(health_pb2.HealthCheckRequest())

    def wait(self) -> None:
        """Wait until the service serves a bank."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                return self._runner.run(self.client.check())
            except NotReadyError:
                time.sleep(0.2)
        raise RuntimeError("the bank service did not start")

    def close(self) -> None:
        """Close the channel."""
        self._runner.run(self.client.close())
        self._runner.close()


@contextmanager
def bank_service(store: str) -> Iterator[Service]:
    """Start ``gmem bank serve`` over a store."""
    port = free_port()
    settings = {
        "GMEM_STORE__URL": store,
        "GMEM_BANK__GRPC_PORT": str(port),
        "GMEM_BANK__HTTP_PORT": "0",
        "GMEM_LOG__LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "gmem_shared", "bank", "serve"]
    process = subprocess.Popen(command, env={**os.environ, **settings})
    try:
        service = Service(f"127.0.0.1:{port}")
        service.wait()
        yield service
        service.close()
    finally:
        process.terminate()
        process.wait(30)


async def _connect(address: str) -> health_pb2_grpc.HealthAsyncStub:
    return health_pb2_grpc.HealthStub(rpc.channel(address, []))


async def _timed(calls: int, call: Callable[[int], Awaitable[object]]) -> list[float]:
    seconds = []
    for number in range(calls):
        begin = time.perf_counter()
        await call(number)
        seconds.append(time.perf_counter() - begin)
    return seconds
