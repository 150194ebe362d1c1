from __future__ import annotations

import asyncio

import pytest

from gmem_generator.lifecycle import Drain
from gmem_shared.errors import DeadlineExceededError, NotReadyError
from tests.support.front import eventually


async def endless(drain: Drain, seconds: float = 60.0) -> None:
    async with drain.work(seconds):
        await asyncio.Event().wait()


async def test_work_ends_at_its_deadline() -> None:
    drain = Drain()
    with pytest.raises(DeadlineExceededError, match="within 10 ms"):
        await endless(drain, 0.01)
    assert drain.idle


async def test_a_timeout_inside_the_work_is_not_taken_for_its_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with Drain().work(60.0):
            raise TimeoutError


async def test_a_server_that_leaves_takes_work_until_it_drains() -> None:
    drain = Drain()
    drain.leave()
    async with drain.work(60.0):
        assert drain.leaving
    drain.begin()
    with pytest.raises(NotReadyError):
        await endless(drain)


async def test_draining_refuses_new_work_and_lets_old_work_finish() -> None:
    drain, done = Drain(), asyncio.Event()

    async def short() -> str:
        async with drain.work(60.0):
            await done.wait()
            return "finished"

    running = asyncio.create_task(short())
    await eventually(lambda: not drain.idle)
    drain.begin()
    with pytest.raises(NotReadyError, match="shutting down"):
        await endless(drain)
    done.set()
    assert await running == "finished"
    assert drain.idle


async def test_expiry_ends_work_in_flight_with_a_reason() -> None:
    drain = Drain()
    running = [asyncio.create_task(endless(drain)) for _ in range(3)]
    await eventually(lambda: not drain.idle)
    drain.begin()
    drain.expire()
    ended = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(error, NotReadyError) for error in ended)
    assert drain.idle
