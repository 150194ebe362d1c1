"""Several front ends on one port: they share a listening socket, and the kernel deals connections.

uvicorn has a supervisor of its own, which cannot be given a server that drains.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Semaphore
from types import FrameType

import structlog

from gmem_generator.serving import DrainingServer

_log = structlog.get_logger(__name__)

FAILED_TO_START = 3
"""Exit status of a worker that never served: another one would fare no better."""

Announce = Callable[[str], None]
Build = Callable[[Announce], DrainingServer]


class Workers:
    """Runs ``count`` processes and replaces those that die.

    A signal is passed on: the workers drain, and this ends when they have. A second one stops them
    at once. They end by themselves when this process is gone.

    Args:
        build: Makes the server of one worker; called in the worker, so it must pickle.
        announce: Called with the address by the first worker that is ready; must pickle, too.
    """

    def __init__(
        self, build: Build, announce: Announce, *, host: str, port: int, count: int
    ) -> None:
        self._build = build
        self._announce = announce
        self._count = count
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=2048)
        self._context = multiprocessing.get_context("spawn")
        self._first = self._context.Semaphore(1)
        self._running: dict[int, SpawnProcess] = {}
        self._stopping = False

    def run(self) -> int:
        """Serve until told to stop; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for _ in range(self._count):
            self._start()
        status = 0
        while self._running:
            for sentinel in wait(list(self._running)):
                assert isinstance(sentinel, int)  # noqa: S101 (they are the keys)
                worker = self._running.pop(sentinel)
                worker.join()
                if worker.exitcode == FAILED_TO_START:
                    status = FAILED_TO_START
                    self._stop(signal.SIGTERM)
                elif not self._stopping:
                    _log.warning("worker.died", pid=worker.pid, status=worker.exitcode)
                    self._start()
        return status

    def _start(self) -> None:
        worker = self._context.Process(
            target=_work, args=(self._build, self._announce, self._first, self._socket)
        )
        worker.start()
        self._running[worker.sentinel] = worker

    def _stop(self, _: int, __: FrameType | None = None) -> None:
        self._stopping = True
        for worker in self._running.values():
            worker.terminate()


def _work(build: Build, announce: Announce, first: Semaphore, listening: socket.socket) -> None:
    os.setsid()  # a terminal's Ctrl-C reaches the parent alone, which passes it on

    def announce_once(address: str) -> None:
        if first.acquire(block=False):
            announce(address)

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        server = build(announce_once)
    except Exception as error:  # noqa: BLE001 (whatever it is, the next worker would find it too)
        _log.error("worker.failed", error=str(error))
        sys.exit(FAILED_TO_START)
    server.run([listening])
    sys.exit(0 if server.started else FAILED_TO_START)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 (this is a worker)
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
