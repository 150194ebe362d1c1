"""Requests that end in every way leave nothing behind: no row, no task, no object of theirs."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gmem_bank.local import LocalBank
from gmem_generator.admission import Ticket
from gmem_generator.plan import Plan
from gmem_model.presets import preset
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from gmem_shared.types import ClassInfo, GenerationTask, Snippets
from tests.support import banks
from tests.support.backends import embedded_backend
from tests.support.http_server import Served, served
from tests.support.models import TEST_ENCODER, publish_tiny_model

pytestmark = pytest.mark.usefixtures("quiet")

ROUNDS, CLIENTS, LIMIT = 20, 8, 16
OF_REQUESTS = (GenerationTask, Plan, Snippets, Ticket)
JSON, EVENTS = "application/json", "text/event-stream"

KINDS: dict[str, tuple[dict[str, Any], str, float | None, set[int]]] = {
    "answered": ({"num_steps": 2}, JSON, None, {200, 429}),
    "as one picture": ({"num_steps": 2, "num_images": 3}, "image/png", None, {200, 429}),
    "streamed": ({"num_steps": 2, "num_images": 3}, EVENTS, None, {200, 429}),
    "left": ({"num_steps": 1000, "num_images": 2}, JSON, 0.02, {0, 429}),
    "left in the stream": ({"num_steps": 1000}, EVENTS, 0.02, {0, 429}),
    "late": ({"num_steps": 1000, "deadline_ms": 10}, JSON, None, {429, 504}),
    "refused": ({"num_images": LIMIT, "num_steps": 1}, JSON, None, {200, 429}),
    "unknown": ({"class_label": "eleven"}, JSON, None, {404, 429}),
    "out of range": ({"num_steps": -1}, JSON, None, {422, 429}),
}
"""Body, form of the answer, patience of the client in seconds, and how it may end; 0: left."""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Served]:
    """The real front end, bank and engine on a real socket."""
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    vectors = np.random.default_rng(1).normal(size=(40, preset("digits").condition.dimension))
    banks.publish(
        store,
        "tiny",
        vectors=vectors.astype(np.float16),
        labels=np.arange(40, dtype=np.int32) % 4,
        source_ids=np.arange(40, dtype=np.int64),
        classes=[ClassInfo(i, f"class-{i}") for i in range(4)],
        encoder=TEST_ENCODER,
    )
    publish_tiny_model(store)
    bank = LocalBank(store, Settings(), CollectorRegistry())
    backend = embedded_backend(str(tmp_path / "store"), tmp_path)
    with served(
        bank=bank, backend=backend, default_model="tiny@production", max_waiting_images=LIMIT
    ) as front:
        yield front


async def play(url: str, rounds: int) -> dict[str, Counter[int]]:
    """Send every kind of request from every client; return how each ended."""
    ends: dict[str, Counter[int]] = {name: Counter() for name in KINDS}

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(rounds * len(KINDS)):
            name = list(KINDS)[(number + turn) % len(KINDS)]
            body, accept, patience, _ = KINDS[name]
            status = 0
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(patience),
                    session.post(
                        f"{url}/generate", json=body, headers={"Accept": accept}
                    ) as answer,
                ):
                    await answer.read()
                    status = answer.status
            ends[name][status] += 1

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session, number) for number in range(CLIENTS)))
    return ends


def until_idle(front: Served) -> None:
    end = time.monotonic() + 60
    while front.metric("gmem_generator_images_waiting") or not front.server._drain.idle:
        assert time.monotonic() < end, "the server still counts images"
        time.sleep(0.01)


def held(front: Served) -> tuple[int, int]:
    """Tasks of the server's event loop, and objects that belong to a request."""

    def count() -> tuple[int, int]:
        gc.collect()
        objects = sum(isinstance(thing, OF_REQUESTS) for thing in gc.get_objects())
        return len(asyncio.all_tasks()), objects

    return front.call(count)


def settles(observe: Callable[[], tuple[int, int]], most: tuple[int, int]) -> tuple[int, int]:
    """Return what is observed once it is no more than before, or at last."""
    end = time.monotonic() + 30
    while True:
        found = observe()
        if all(now <= before for now, before in zip(found, most, strict=True)):
            return found
        if time.monotonic() > end:
            return found
        time.sleep(0.1)


def test_requests_of_every_kind_leave_nothing_behind(front) -> None:
    asyncio.run(play(front.url, 1))
    until_idle(front)
    before = held(front)
    ends = asyncio.run(play(front.url, ROUNDS))
    until_idle(front)
    for name, (_, _, _, allowed) in KINDS.items():
        assert set(ends[name]) <= allowed, f"{name}: {ends[name]}"
    assert {0, 200, 404, 422, 429, 504} <= set().union(*ends.values())
    found = settles(lambda: held(front), before)
    assert found[0] <= before[0], f"tasks: {before[0]} before, {found[0]} after"
    assert found[1] <= before[1], f"objects of requests: {before[1]} before, {found[1]} after"
    engine = front.backend._host._metrics
    for gauge in (engine.rows_running, engine.rows_waiting):
        assert [s.value for family in gauge.collect() for s in family.samples] == [0]
