"""The product as its users run it: real processes on free ports, from one store."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 90.0


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> range:
    """Adjacent ports nobody listens on, none of which the kernel gives to a connection."""
    while True:
        first = random.randrange(10_000, 30_000)
        ports = range(first, first + count)
        with contextlib.ExitStack() as probes:
            try:
                for port in ports:
                    probes.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return ports


def wait_for(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Poll until the condition holds; fail with what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


@dataclass
class Stack:
    """Starts, kills and stops ``gmem`` processes that share one store.

    ``embedded`` runs everything in the front end's process; otherwise bank service and Triton are
    processes of their own and the front end reaches both over gRPC.
    """

    store_url: str
    directory: Path
    embedded: bool = True
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("http", "bank_http", "bank_grpc", "triton_http", "triton_grpc", "triton_metrics")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def environment(self) -> dict[str, str]:
        settings = {
            "GMEM_STORE__URL": self.store_url,
            "GMEM_STORE__CACHE_DIR": str(self.directory / "cache"),
            "GMEM_STORE__POLL_SECONDS": "0.2",
            "GMEM_GENERATOR__PORT": str(self.ports["http"]),
            "GMEM_BANK__HTTP_PORT": str(self.ports["bank_http"]),
            "GMEM_BANK__GRPC_PORT": str(self.ports["bank_grpc"]),
            "GMEM_BANK__ADDRESS": f"127.0.0.1:{self.ports['bank_grpc']}",
            "GMEM_TRITON__HTTP_PORT": str(self.ports["triton_http"]),
            "GMEM_TRITON__GRPC_PORT": str(self.ports["triton_grpc"]),
            "GMEM_TRITON__METRICS_PORT": str(self.ports["triton_metrics"]),
            "GMEM_GENERATOR__TRITON_ADDRESS": f"127.0.0.1:{self.ports['triton_grpc']}",
        }
        if not self.embedded:
            settings["GMEM_GENERATOR__BANK_SOURCE"] = "gmem_shared.clients.bank:BankClient"
            settings["GMEM_GENERATOR__BACKEND"] = "gmem_generator.triton_backend:TritonBackend"
        return os.environ | settings | self.extra

    @property
    def parts(self) -> tuple[str, ...]:
        return ("generator",) if self.embedded else ("bank", "triton", "generator")

    def launch(self, part: str) -> None:
        """Start one process without waiting for it."""
        command = {"generator": ["serve"], "bank": ["bank", "serve"], "triton": ["triton", "serve"]}
        with (self.directory / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                [sys.executable, "-m", "gmem_shared", *command[part]],
                env=self.environment,
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> None:
        for part in self.parts:
            self.launch(part)
        self.wait_ready()

    def wait_ready(self) -> None:
        wait_for(self.is_ready, f"{self.url}/readyz is 200\n{self.logs()}")

    def is_ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200

    def kill(self, part: str) -> None:
        """SIGKILL the process and everything it started."""
        process = self.processes[part]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, part: str, seconds: float = 60.0) -> int:
        """SIGTERM, as an orchestrator does; return the exit status."""
        process = self.processes[part]
        process.terminate()
        return process.wait(seconds)

    def logs(self) -> str:
        tails = []
        for part in self.parts:
            path = self.directory / f"{part}.log"
            if path.exists():
                tails.append(f"--- {part}\n{path.read_text(errors='replace')[-3000:]}")
        return "\n".join(tails)

    def generate(self, **request: Any) -> dict[str, Any]:
        """POST /generate and return the JSON answer; anything but 200 fails the test."""
        answer = httpx.post(f"{self.url}/generate", json=request, timeout=60)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def metric(self, name: str, part_url: str | None = None) -> float:
        """Sum of a metric's samples as Prometheus would scrape them."""
        text = httpx.get(f"{part_url or self.url}/metrics", timeout=10).text
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] == name
        ]
        assert values, f"no sample of {name}"
        return sum(values)


@contextlib.contextmanager
def running_stack(
    store_url: str, directory: Path, *, embedded: bool, **extra: str
) -> Iterator[Stack]:
    """A stack that answers; every process is gone afterwards, whatever happened."""
    directory.mkdir(parents=True, exist_ok=True)
    stack = Stack(store_url, directory, embedded=embedded, extra=extra)
    try:
        stack.start()
        yield stack
    finally:
        for part in reversed(list(stack.processes)):
            stack.kill(part)
