"""A real redis-server for tests, on a free port, with its data in a folder."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.stack import free_port, wait_for


@dataclass
class RedisServer:
    """Starts, pauses, stops; what was acknowledged is in its folder."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        where = ("--dir", str(self.folder), "--port", str(self.port), "--bind", "127.0.0.1")
        with (self.folder / "redis.log").open("ab") as log:
            command = ["redis-server", *where, *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers, f"redis-server answers at {self.url}")

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[RedisServer]:
    server = RedisServer(folder, port or free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_redis(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a server with its files in ``folder``; yields its URL."""
    with redis_server(folder, port) as server:
        yield server.url
