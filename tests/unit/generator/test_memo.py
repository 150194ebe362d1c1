from __future__ import annotations

import asyncio

import pytest

from gmem_generator.memo import Memo
from gmem_shared.errors import NotReadyError


class Source:
    def __init__(self) -> None:
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def __call__(self, key: str) -> str:
        self.calls += 1
        await self.open.wait()
        if self.failure:
            raise self.failure
        return f"{key}{self.calls}"


async def test_what_is_forgotten_is_asked_anew() -> None:
    memo = Memo(Source(), 2.0, lambda: 0.0)
    assert await memo.get("a") == "a1"
    memo.forget()
    assert await memo.get("a") == "a2"


async def test_an_answer_is_remembered_until_it_is_too_old() -> None:
    now, source = [0.0], Source()
    memo = Memo(source, 2.0, lambda: now[0])
    assert await memo.get("a") == "a1"
    now[0] = 1.9
    assert await memo.get("a") == "a1"
    now[0] = 2.0
    assert await memo.get("a") == "a2"


async def test_concurrent_callers_share_one_call_and_may_leave() -> None:
    source = Source()
    source.open.clear()
    memo = Memo(source, 1.0, lambda: 0.0)
    leaver, *stayers = [asyncio.create_task(memo.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    leaver.cancel()
    source.open.set()
    assert await asyncio.gather(*stayers) == ["a1"] * 4


async def test_a_failure_is_told_and_not_remembered() -> None:
    source = Source()
    source.failure = NotReadyError("away")
    memo = Memo(source, 1.0, lambda: 0.0)
    with pytest.raises(NotReadyError):
        await memo.get("a")
    source.failure = None
    assert await memo.get("a") == "a2"


async def test_memory_is_bounded() -> None:
    source = Source()
    memo = Memo(source, 1.0, lambda: 0.0)
    for i in range(1000):
        await memo.get(f"key{i}-")
    assert await memo.get("key999-") == "key999-1000"
    assert await memo.get("key0-") == "key0-1001"
