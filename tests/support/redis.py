"""A real redis-server for tests, on a free port, with its data in a folder; a bad line to it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
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


class Line:
    """Leads to a server, and may be cut just when that has done something, before it says so."""

    def __init__(self, server_url: str) -> None:
        self._server = server_url
        self._cut_at: bytes | None = None
        self.url = ""

    def cut_at(self, command: bytes) -> None:
        """Lose the reply to what next contains this."""
        self._cut_at = command

    @property
    def cut(self) -> bool:
        """Whether that has happened."""
        return self._cut_at is None

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._server.removeprefix("redis://").partition("/")[0].split(":")
        replies, commands = await asyncio.open_connection(host, int(port))
        losing = asyncio.Event()

        async def ask() -> None:
            while sent := await reader.read(1 << 16):
                if self._cut_at is not None and self._cut_at in sent:
                    self._cut_at = None
                    losing.set()
                commands.write(sent)

        async def answer() -> None:
            while said := await replies.read(1 << 16):
                if losing.is_set():
                    break
                writer.write(said)

        ends = [asyncio.create_task(end()) for end in (ask, answer)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        for side in (writer, commands):
            side.close()
            await side.wait_closed()


@asynccontextmanager
async def bad_line(server_url: str) -> AsyncIterator[Line]:
    """Open a line to a server."""
    line = Line(server_url)
    calls: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.add(asyncio.create_task(line.connected(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    line.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server:
        yield line
    await asyncio.wait(calls)
