from __future__ import annotations

import asyncio
import contextlib

from gmem_generator.breath import Breath


async def turns_during(work) -> int:
    """How often another task had its turn while this one worked."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await work()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return turns


async def test_others_have_a_turn_after_every_millisecond_and_not_before() -> None:
    now = 0.0
    breathe = Breath(lambda: now)

    async def work() -> None:
        nonlocal now
        for _ in range(100):
            now += 0.0003
            await breathe()

    assert await turns_during(work) == 25


async def test_a_large_answer_is_made_in_many_turns(front) -> None:
    async def ask() -> None:
        assert (await front.generate(num_images=1024)).status_code == 200

    assert await turns_during(ask) > 40
