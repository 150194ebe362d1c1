"""Carries TCP connections on, each piece a while later: ``relay.py TARGET PORT MARK SECONDS``.

Runs in another network namespace, on nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys

SO_ORIGINAL_DST = 80


async def relay(target: str, listen: int, mark: int, seconds: float) -> None:
    """Listen for connections that were meant for a port of the target."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meant = writer.get_extra_info("socket").getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        (port,) = struct.unpack_from("!H", meant, 2)
        onward = socket.socket()
        onward.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        onward.setblocking(False)
        await asyncio.get_running_loop().sock_connect(onward, (target, port))
        back_reader, back_writer = await asyncio.open_connection(sock=onward)
        ways = _carry(reader, back_writer, seconds), _carry(back_reader, writer, seconds)
        await asyncio.gather(*ways)

    server = await asyncio.start_server(serve, "0.0.0.0", listen)
    print("ready", flush=True)
    await server.serve_forever()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Pass on what comes, each piece after the same while."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            loop.call_later(seconds, writer.write, data)
    await asyncio.sleep(seconds)
    writer.close()


if __name__ == "__main__":
    target, listen, mark, seconds = sys.argv[1:]
    asyncio.run(relay(target, int(listen), int(mark), float(seconds)))
