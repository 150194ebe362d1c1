"""The front end on a real socket, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from gmem_generator.app import create_app
from gmem_generator.serving import DrainingServer
from tests.support.fakes import FakeBackend, FakeBank
from tests.support.front import settings


@dataclass
class Served:
    """A running server; ``call`` runs a function on its event loop."""

    url: str
    server: DrainingServer
    bank: FakeBank
    backend: FakeBackend
    registry: CollectorRegistry
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    def call(self, function: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def served(
    drain_seconds: float = 20.0, bank: Any = None, backend: Any = None, **changed: Any
) -> Iterator[Served]:
    """Serve the doubles, or real parts, on a free port; stops at once when the block ends.

    ``changed`` are settings.
    """
    registry = CollectorRegistry()
    bank, backend = bank or FakeBank(), backend or FakeBackend()
    chosen = settings(**changed)
    app = create_app(chosen, bank, backend, registry)
    announced: list[str] = []
    ready = threading.Event()

    def announce(address: str) -> None:
        announced.append(address)
        ready.set()

    server = DrainingServer(
        app,
        host="127.0.0.1",
        port=0,
        leave_seconds=0.0,
        drain_seconds=drain_seconds,
        announce=announce,
        security=chosen.security,
    )
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30), "the server never became ready"
        yield Served(announced[0], server, bank, backend, registry, loops[0], thread)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
    assert not thread.is_alive()
