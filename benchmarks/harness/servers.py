"""Server processes: started on one core, tried out, stopped with everything they started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.report import ROOT

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _CORES[0], _CORES[-1]
"""Servers share one core and the clients have another, so that neither takes from the other."""

SETTLE_SECONDS = 0.5
"""What a server that was paused needs before it is measured, to look at its store and the like."""

START_SECONDS = 120.0
LOGS = ROOT / ".gmem" / "bench" / "logs"

Request = dict[str, Any]


@dataclass(frozen=True)
class System:
    """A way to serve the network.

    Attributes:
        name: As the tables show it.
        command: The command line, given a free port.
        environment: Further variables, given the port.
        path: Where requests are posted.
        body: Writes a request as this system reads it.
        images: Reads the images out of an answer.
    """

    name: str
    command: Callable[[int], Sequence[str | Path]]
    environment: Callable[[int], Mapping[str, str]] = field(default=lambda port: {})
    path: str = "/generate"
    body: Callable[[Request], Any] = field(default=lambda request: request)
    images: Callable[[Any], list[Any]] = field(default=lambda answer: answer["images"])

    def bodies(self, requests: Sequence[Request]) -> list[bytes]:
        """Encode requests."""
        return [json.dumps(self.body(request)).encode() for request in requests]


@dataclass(frozen=True)
class Server:
    """A running system; ``process`` is the number of its process."""

    system: System
    url: str
    process: int


@contextmanager
def serving(system: System, logs: Path = LOGS) -> Iterator[Server]:
    """Start a system on its core and wait until it makes images; log to ``<logs>/<name>.log``."""
    port = free_port()
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{system.name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(SERVER_CORE), *system.command(port)],
            env={**os.environ, **system.environment(port)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(system, f"http://127.0.0.1:{port}{system.path}", process.pid)
    try:
        _wait(server, process, log)
        yield server
    finally:
        _stop(process)


def pause(server: Server) -> None:
    """Have a server stand still: one that only waits still takes turns on the core it shares."""
    os.killpg(server.process, signal.SIGSTOP)


@contextmanager
def awake(server: Server) -> Iterator[None]:
    """Let a paused server run for a while."""
    os.killpg(server.process, signal.SIGCONT)
    time.sleep(SETTLE_SECONDS)
    try:
        yield
    finally:
        pause(server)


def pin_client() -> None:
    """Keep this process, the client, off the servers' core."""
    os.sched_setaffinity(0, {CLIENT_CORE})


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once two images were asked for and came."""
    request = {"class_label": 3, "num_images": 2, "num_steps": 4}
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            images = server.system.images(_post(server, request))
        except (OSError, ValueError) as error:
            if process.poll() is not None or time.monotonic() > until:
                tail = log.read_text(errors="replace")[-3000:]
                raise SystemExit(f"{server.system.name} does not serve: {error}\n{tail}") from error
            time.sleep(0.2)
            continue
        assert len(images) == 2, f"{server.system.name} made {len(images)} of 2 images"
        return


def _post(server: Server, request: Request) -> Any:
    (body,) = server.system.bodies([request])
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(  # noqa: S310 (our own server)
        urllib.request.Request(server.url, body, headers),  # noqa: S310
        timeout=30,
    ) as answer:
        return json.load(answer)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end; what is left after ten seconds is killed."""
    _signal(process, signal.SIGCONT)
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
