"""A real Redis for tests, on a free port; nothing of it is kept."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.stack import free_port, wait_for


@contextlib.contextmanager
def running_redis(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a server with its files in ``folder``; yields its URL."""
    port = port or free_port()
    options = {"bind": "127.0.0.1", "port": port, "dir": folder, "save": "", "appendonly": "no"}
    command = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", *command], stdout=log, stderr=log)
    try:
        wait_for(lambda: _answers(port), f"redis-server on port {port}")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as asked:
        asked.sendall(b"PING\r\n")
        return asked.recv(7) == b"+PONG\r\n"
    return False
