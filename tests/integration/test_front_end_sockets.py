"""What only a real connection shows: clients that leave, a server that is told to stop."""

from __future__ import annotations

import concurrent.futures
import json
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gmem_shared.http_server import HEAD_BYTES
from tests.support.http_server import Served, served

pytestmark = pytest.mark.usefixtures("quiet")

REQUEST = {"class_label": 7, "num_images": 4, "seed": 42}


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)


def send(front: Served, accept: str = "application/json", **body: Any) -> socket.socket:
    """Send a request and return the connection, nothing read yet."""
    address = urlsplit(front.url)
    content = json.dumps(body or REQUEST).encode()
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(
        b"POST /generate HTTP/1.1\r\nHost: front\r\nContent-Type: application/json\r\n"
        + f"Accept: {accept}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    return connection


def idle(front: Served) -> bool:
    waiting = front.metric("gmem_generator_images_waiting")
    return not front.backend.running and waiting == 0 and front.server._drain.idle


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream"])
def test_a_client_that_leaves_while_waiting_stops_the_engine(accept) -> None:
    with served() as front:
        front.call(front.backend.gate.open.clear)
        connection = send(front, accept)
        until(lambda: front.backend.running)
        connection.close()
        until(lambda: idle(front))
        assert len(front.backend.stopped) == 1
        assert front.metric("gmem_generator_cancelled_total", reason="disconnected") == 1
        assert front.metric("gmem_generator_backlog_seconds") == 0


def test_a_client_that_leaves_in_the_middle_of_a_stream_stops_the_engine() -> None:
    with served() as front:
        front.backend.gate.passes = 2
        with closing(send(front, "text/event-stream")) as connection:
            received = b""
            while received.count(b"event: image") < 2:
                received += connection.recv(65536)
        until(lambda: idle(front))
        assert len(front.backend.stopped) == 1
        assert front.metric("gmem_generator_cancelled_total", reason="disconnected") == 1


def test_a_client_that_leaves_within_its_request_costs_nothing() -> None:
    with served() as front:
        address = urlsplit(front.url)
        connection = socket.create_connection((address.hostname, address.port))
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: front\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        connection.close()
        requests = "gmem_generator_requests_total"
        until(lambda: front.metric(requests, route="/generate", status="499") == 1)
        assert not front.backend.tasks


def test_an_abort_storm_leaves_no_trace() -> None:
    chance = random.Random(0)
    with served() as front:
        front.call(front.backend.gate.open.clear)
        connections = [
            send(front, chance.choice(["application/json", "text/event-stream", "image/png"]))
            for _ in range(60)
        ]
        until(lambda: len(front.backend.running) == 60)
        for connection in chance.sample(connections, 50):
            connection.close()
        until(lambda: len(front.backend.running) == 10)
        front.call(front.backend.gate.open.set)
        until(lambda: idle(front))
        for connection in connections:
            connection.close()
        assert front.metric("gmem_generator_images_total") == 10 * REQUEST["num_images"]
        assert httpx.post(f"{front.url}/generate", json=REQUEST).status_code == 200


def test_images_arrive_while_the_engine_is_still_working() -> None:
    with served() as front:
        front.backend.gate.passes = 1
        with closing(send(front, "text/event-stream")) as connection:
            received = b""
            while b"event: image" not in received:
                received += connection.recv(65536)
            assert front.backend.running
            front.call(front.backend.gate.open.set)
            while b"event: completed" not in received:
                received += connection.recv(65536)


def test_a_stop_signal_lets_work_finish_and_takes_no_more() -> None:
    with served() as front, concurrent.futures.ThreadPoolExecutor() as pool:
        front.call(front.backend.gate.open.clear)
        posts = [
            pool.submit(
                httpx.post, f"{front.url}/generate", json=REQUEST, headers={"Accept": accept}
            )
            for accept in ("application/json", "text/event-stream")
        ]
        until(lambda: len(front.backend.running) == 2)
        front.call(lambda: front.server.handle_exit(signal.SIGTERM, None))
        assert httpx.get(f"{front.url}/livez").status_code == 200
        ready = httpx.get(f"{front.url}/readyz")
        assert (ready.status_code, ready.json()["parts"]["server"]["ready"]) == (503, False)
        refused = httpx.post(f"{front.url}/generate", json=REQUEST)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        front.call(front.backend.gate.open.set)
        answers = [post.result() for post in posts]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert "event: completed" in answers[1].text
        front.thread.join(30)
        assert not front.thread.is_alive()
        assert not front.bank.running


def test_work_that_outlasts_the_drain_is_ended_with_a_reason() -> None:
    with served(drain_seconds=0.2) as front, concurrent.futures.ThreadPoolExecutor() as pool:
        front.backend.gate.passes = 1
        streaming = pool.submit(
            httpx.post, f"{front.url}/generate", json=REQUEST,
            headers={"Accept": "text/event-stream"},
        )  # fmt: skip
        until(lambda: front.backend.gate.waiting)
        plain = pool.submit(httpx.post, f"{front.url}/generate", json=REQUEST)
        until(lambda: len(front.backend.running) == 2)
        front.call(lambda: front.server.handle_exit(signal.SIGTERM, None))
        assert plain.result().status_code == 503
        assert "stopped before" in plain.result().json()["detail"]
        assert "event: error" in streaming.result().text
        front.thread.join(30)
        assert not front.thread.is_alive()


def test_a_head_without_end_is_refused() -> None:
    with served() as front:
        address = urlsplit(front.url)
        with closing(socket.create_connection((address.hostname, address.port))) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: front\r\nX: ")
            time.sleep(0.1)  # until it was read: what follows counts
            connection.sendall(b"x" * (HEAD_BYTES + 1))
            assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
