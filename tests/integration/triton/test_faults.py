"""Triton or its engine dies, freezes or stops: callers learn why, the client recovers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from gmem_generator.triton_server import SHARED_MEMORY
from gmem_shared.errors import NotReadyError
from tests.support.backends import images_of, is_ready, long_task, pixels_of, until
from tests.support.engine import make_task

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def whole_server(server) -> None:
    """Repair what the test before broke."""
    if server.probe().returncode != 0:
        server.kill("triton")
        server.start()


async def restart(server, backend) -> None:
    async def away() -> bool:
        return not await is_ready(backend)

    await until(away)
    server.launch("triton")
    await until(lambda: is_ready(backend))


async def fails_in_flight(backend, fault: Callable[[], None]) -> None:
    """Assert that a task ends with a reason when something happens after its first image."""
    images = backend.generate(long_task())
    await anext(images)
    fault()
    with pytest.raises(NotReadyError) as caught:
        await exhaust(images)
    assert caught.value.retry_after_seconds is not None


async def exhaust(images: AsyncIterator[object]) -> None:
    async for _ in images:
        pass


async def test_a_killed_server_fails_what_is_in_flight_and_the_client_recovers(
    server, backend
) -> None:
    before = await pixels_of(backend, make_task(3, seed=1))
    await fails_in_flight(backend, lambda: server.kill("triton"))
    with pytest.raises(NotReadyError):
        await images_of(backend, make_task(1))
    await restart(server, backend)
    assert await pixels_of(backend, make_task(3, seed=1)) == before


async def test_a_killed_server_leaves_no_shared_memory_behind_its_successor(
    server, backend
) -> None:
    def regions() -> set[Path]:
        return set(SHARED_MEMORY.glob(f"{server.region_prefix}*"))

    left_behind = regions()
    assert left_behind
    server.kill("triton")
    await restart(server, backend)
    assert not left_behind & regions()


async def test_a_killed_server_takes_its_engine_along(server) -> None:
    stub = server.stub
    server.process.kill()

    async def gone() -> bool:
        return not stub.is_running() or stub.status() == psutil.STATUS_ZOMBIE

    await until(gone)


async def test_a_killed_engine_is_noticed_although_triton_says_ready(server, backend) -> None:
    server.stub.kill()

    async def noticed() -> bool:
        return not await is_ready(backend)

    await until(noticed)
    with pytest.raises(NotReadyError):
        await backend.check()
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{server.http_url}/v2/health/ready")).status_code == 200
    probe = server.probe()
    assert probe.returncode == 1
    assert "Triton" in probe.stderr


async def test_a_killed_engine_fails_what_is_in_flight(server, backend) -> None:
    await fails_in_flight(backend, server.stub.kill)


async def test_silence_is_noticed(server, backend) -> None:
    with server.frozen(), pytest.raises(NotReadyError):
        await images_of(backend, make_task(1))
    await until(lambda: is_ready(backend))
    assert len(await images_of(backend, make_task(2))) == 2


async def test_a_stop_is_clean_although_a_client_is_connected(server, backend) -> None:
    await images_of(backend, make_task(1))
    assert await asyncio.to_thread(server.stop, "triton") == 0
    with pytest.raises(NotReadyError):
        await images_of(backend, make_task(1))


async def test_a_stop_lets_tasks_in_flight_end(server, backend) -> None:
    task = make_task(640, num_steps=20)
    images = backend.generate(task)
    await anext(images)
    stopping = asyncio.create_task(asyncio.to_thread(server.stop, "triton"))
    rest = [image async for image in images]
    assert len(rest) == len(task) - 1
    assert await stopping == 0


async def test_no_server_at_all_is_a_reason(server, backend) -> None:
    server.kill("triton")
    with pytest.raises(NotReadyError, match="Triton"):
        await backend.describe("tiny")
