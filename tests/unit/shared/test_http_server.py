"""Bounded heads, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from gmem_shared import http_server
from gmem_shared.http_server import HEAD_BYTES, BoundedHttp

HEAD = b"POST / HTTP/1.1\r\nHost: here\r\n"
READ_SECONDS = 20


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of bytes of the body; with none before it, where asked to."""
    size, more = 0, scope["path"] != "/impatient"
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[bytes, bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), READ_SECONDS)
        length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
        return head.split(b" ")[1], await self.reader.readexactly(int(length))

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return not await asyncio.wait_for(self.reader.read(), READ_SECONDS)
        return True


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    config = uvicorn.Config(
        echo, port=0, http=BoundedHttp, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    yield connection
    connection.writer.close()
    with contextlib.suppress(ConnectionError):
        await connection.writer.wait_closed()
    await server.shutdown()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)


async def test_a_large_head_is_taken_and_so_is_a_larger_body(connection: Connection) -> None:
    field = b"X: " + b"x" * (HEAD_BYTES - 1000) + b"\r\n"
    body = b"b" * (4 * HEAD_BYTES)
    for _ in range(2):
        await connection.send(HEAD + field + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert await connection.answer() == (b"200", b"%d" % len(body))


@pytest.mark.parametrize("piece", [b"X: " + b"x" * 1000 + b"\r\n", b"x" * 1000])
async def test_a_head_without_end_is_refused(connection: Connection, piece: bytes) -> None:
    await connection.send(HEAD + b"X: ")
    await asyncio.sleep(0.1)  # until it was read: what follows counts
    for _ in range(HEAD_BYTES // len(piece) + 1):  # no more than is read: the answer would be lost
        await connection.send(piece)
    status, _ = await connection.answer()
    assert status == b"431"
    assert await connection.ended()


async def test_what_follows_a_chunked_body_is_bounded_alike(connection: Connection) -> None:
    await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(10 * HEAD_BYTES // 1000):
            await connection.send(b"X: " + b"x" * 1000 + b"\r\n")
            await asyncio.sleep(0)
    assert await connection.ended()


@pytest.mark.parametrize("begun", [b"", b"\r\n", HEAD])
async def test_a_first_head_that_does_not_end_is_not_waited_for(
    hasty: None, connection: Connection, begun: bytes
) -> None:
    await connection.send(begun)
    assert await connection.ended()


@pytest.mark.parametrize("begun", [b"\r\n", HEAD])
async def test_nor_is_a_later_one(hasty: None, connection: Connection, begun: bytes) -> None:
    await connection.send(HEAD + b"Content-Length: 1\r\n\r\nb")
    assert await connection.answer() == (b"200", b"1")
    await connection.send(begun)
    assert await connection.ended()


async def test_a_head_that_comes_slowly_is_taken_within_its_time(connection: Connection) -> None:
    for byte in HEAD + b"Content-Length: 0\r\n\r\n":
        await connection.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await connection.answer() == (b"200", b"0")


async def test_a_body_may_take_its_time(hasty: None, connection: Connection) -> None:
    await connection.send(HEAD + b"Content-Length: 2\r\n\r\nb")
    await asyncio.sleep(0.6)
    await connection.send(b"b")
    assert await connection.answer() == (b"200", b"2")


async def test_but_none_that_nobody_reads(hasty: None, connection: Connection) -> None:
    head = HEAD.replace(b"POST /", b"POST /impatient")
    await connection.send(head + b"Content-Length: 100\r\n\r\nb")
    assert await connection.answer() == (b"200", b"0")
    await connection.send(b"b")
    assert await connection.ended()
