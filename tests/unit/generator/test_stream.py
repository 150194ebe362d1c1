from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gmem_generator import stream
from gmem_shared.errors import NotReadyError
from tests.support.front import eventually

REQUEST = {"class_label": 7, "num_images": 3, "seed": 42}
EVENTS = "text/event-stream"


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_each_image_is_an_event_and_completed_is_the_last(front) -> None:
    answer = await front.generate(EVENTS, **REQUEST)
    assert answer.headers["Content-Type"].startswith(EVENTS)
    found = events(answer.text)
    assert [name for name, _ in found] == ["image"] * 3 + ["completed"]
    plain = (await front.generate(**REQUEST)).json()
    assert [data for _, data in found[:3]] == plain["images"]
    assert found[-1][1]["usage"] == plain["usage"]
    assert set(plain) - set(found[-1][1]) == {"images"}


async def test_a_failure_before_the_first_image_is_an_ordinary_problem(front) -> None:
    front.backend.fail_after = (0, NotReadyError("engine is away", retry_after_seconds=1))
    answer = await front.generate(EVENTS, **REQUEST)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"


async def stream_until_second_image(front) -> asyncio.Task[httpx.Response]:
    """Ask for images and return when the headers and the first image are out."""
    front.backend.gate.passes = 1
    asking = asyncio.create_task(front.generate(EVENTS, **REQUEST))
    await eventually(lambda: front.backend.gate.waiting)
    await asyncio.sleep(0.05)
    return asking


async def test_a_failure_after_the_first_image_is_an_event(front) -> None:
    asking = await stream_until_second_image(front)
    front.backend.gate.failure = NotReadyError("engine died")
    front.backend.gate.open.set()
    answer = await asking
    assert answer.status_code == 200
    (first, _), (last, problem) = events(answer.text)
    assert (first, last) == ("image", "error")
    assert (problem["status"], problem["detail"]) == (503, "engine died")


async def test_a_defect_after_the_first_image_never_looks_complete(front) -> None:
    asking = await stream_until_second_image(front)
    front.backend.gate.failure = ZeroDivisionError()
    front.backend.gate.open.set()
    with pytest.raises(ZeroDivisionError):
        await asking


async def test_an_idle_stream_is_kept_alive(front, monkeypatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.01)
    asking = await stream_until_second_image(front)
    front.backend.gate.open.set()
    answer = await asking
    assert ": keep-alive\n\n" in answer.text
    assert [name for name, _ in events(answer.text)] == ["image"] * 3 + ["completed"]
