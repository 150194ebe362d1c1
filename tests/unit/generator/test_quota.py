"""What a caller may ask for, and how long who asked for more has to wait."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gmem_generator.metrics import Metrics
from gmem_generator.quota import Charge, Quota, _Window
from gmem_shared.errors import NotReadyError, OutOfRangeError, OverQuotaError
from gmem_shared.keys import ANONYMOUS, Principal, Rates
from gmem_shared.settings import QuotaSettings, RedisSettings
from tests.support.front import eventually, running_front
from tests.support.keys import bearer, keys_file
from tests.support.quota import spent

ALICE, BOB = (Principal(id, frozenset(["generate"])) for id in ("alice", "bob"))
NOWHERE = "redis://127.0.0.1:1/0"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def counting(
    url: str = "memory://", clock: Clock | None = None, **settings: Any
) -> AsyncIterator[tuple[Quota, CollectorRegistry]]:
    registry = CollectorRegistry()
    redis = RedisSettings(url=url, timeout_seconds=0.5)
    quota = Quota(QuotaSettings(**settings), redis, Metrics(registry), clock or Clock())
    yield quota, registry
    await quota.close()


async def test_without_quotas_nothing_is_counted() -> None:
    async with counting(NOWHERE, redis_away="refuse") as (quota, _):
        for _ in range(1000):
            await spent(quota, ANONYMOUS, 1000)


async def test_requests_and_images_are_counted_for_each_caller_apart() -> None:
    async with counting(requests="2/hour", images="10/hour") as (quota, registry):
        await spent(quota, ALICE, 6)
        await spent(quota, BOB, 10)
        with pytest.raises(OverQuotaError, match=r"10/hour images of 'alice', found 4 left and 5"):
            await spent(quota, ALICE, 5)
        await spent(quota, ALICE, 4)
        with pytest.raises(OverQuotaError, match="2/hour requests of 'alice', found 0 left"):
            await spent(quota, ALICE, 1)
        assert (
            registry.get_sample_value("gmem_generator_refused_total", {"code": "over_quota"}) == 2
        )


async def test_a_quota_of_the_key_replaces_that_of_the_settings() -> None:
    rich = Principal("rich", frozenset(["generate"]), Rates(images="1000/hour"))
    async with counting(requests="3/hour", images="10/hour") as (quota, _):
        await spent(quota, rich, 900)
        await spent(quota, rich, 90)
        with pytest.raises(OverQuotaError, match="1000/hour images"):
            await spent(quota, rich, 11)


async def test_images_that_never_fit_are_out_of_range_and_cost_nothing() -> None:
    async with counting(requests="1/hour", images="10/2 hours") as (quota, _):
        with pytest.raises(OutOfRangeError, match=r"at most 10 images.* in 2 hours, found 11"):
            await spent(quota, ALICE, 11)
        await spent(quota, ALICE, 10)


async def test_the_refused_pay_nothing() -> None:
    async with counting(requests="2/hour", images="10/hour") as (quota, _):
        await spent(quota, ALICE, 8)
        for _ in range(5):
            with pytest.raises(OverQuotaError, match="images"):
                await spent(quota, ALICE, 3)
        await spent(quota, ALICE, 2)
        with pytest.raises(OverQuotaError, match="requests"):
            await spent(quota, ALICE, 1)


async def test_what_is_not_kept_is_given_back() -> None:
    async with counting(requests="2/hour", images="10/hour") as (quota, _):
        await spent(quota, ALICE, 4)
        for _ in range(5):
            async with quota.spend(ALICE, 6):
                with pytest.raises(OverQuotaError):
                    await spent(quota, ALICE, 1)
        with pytest.raises(OverQuotaError, match="images of 'alice', found 6 left and 7"):
            await spent(quota, ALICE, 7)
        await spent(quota, ALICE, 6)


@given(
    previous=st.integers(0, 100),
    current=st.integers(0, 100),
    passed=st.floats(0, 59.9),
    cost=st.integers(1, 100),
)
def test_who_waits_as_long_as_told_finds_room_and_not_much_earlier(
    previous: int, current: int, passed: float, cost: int
) -> None:
    amount, seconds = 100, 60

    def has_room(later: float) -> bool:
        at = passed + later
        counts = {0: (previous, current), 1: (current, 0)}.get(int(at // seconds), (0, 0))
        left = seconds - at % seconds
        return int(counts[0] * left / seconds) + counts[1] + cost <= amount

    left = seconds - passed
    window = _Window(previous, left if previous else 0.0, current, left + seconds)
    wait = window.wait(amount - cost, seconds)
    assert has_room(wait + 1e-6)
    if wait > 0.1:
        assert not has_room(wait - 0.1)


async def test_away_is_asked_once_in_a_while_and_passes_uncounted() -> None:
    clock = Clock()
    async with counting(NOWHERE, clock, requests="1/hour") as (quota, registry):
        for _ in range(10):
            await spent(quota, ALICE, 1)
        uncounted = registry.get_sample_value(
            "gmem_generator_quota_uncounted_total", {"outcome": "allow"}
        )
        assert uncounted == 10


async def test_away_may_be_refused_with_the_time_of_the_next_look() -> None:
    clock = Clock()
    async with counting(NOWHERE, clock, requests="1/hour", redis_away="refuse") as (quota, _):
        with pytest.raises(NotReadyError, match="Redis") as first:
            await spent(quota, ALICE, 1)
        assert first.value.retry_after_seconds == 5
        clock.seconds = 2
        with pytest.raises(NotReadyError) as second:
            await spent(quota, ALICE, 1)
        assert second.value.retry_after_seconds == 3


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The URL of what accepts connections and says nothing."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def test_a_redis_that_does_not_answer_costs_the_timeout_once(silent: str) -> None:
    loop = asyncio.get_running_loop()
    async with counting(silent, requests="1/hour", images="1/hour") as (quota, _):
        began = loop.time()
        for _ in range(100):
            await spent(quota, ALICE, 1)
        assert 0.4 < loop.time() - began < 3


async def test_one_request_at_a_time_looks_whether_it_is_back(silent: str) -> None:
    clock = Clock()
    async with counting(silent, clock, requests="1/hour") as (quota, _):
        await spent(quota, ALICE, 1)
        for clock.seconds in (6, 12):
            asking = [asyncio.create_task(spent(quota, ALICE, 1)) for _ in range(20)]
            passed, waiting = await asyncio.wait(asking, timeout=0.2)
            assert (len(passed), len(waiting)) == (19, 1)
            await asyncio.gather(*waiting)


async def test_over_quota_is_a_429_problem_that_says_when_to_come_back(tmp_path) -> None:
    made = keys_file(tmp_path / "keys.json", alice={"scopes": ["generate"]})
    security, quota = {"api_keys_file": tmp_path / "keys.json"}, {"images": "5/hour"}
    async with running_front(security=security, quota=quota) as front:
        for accept in ("application/json", "text/event-stream"):
            headers = bearer(made["alice"]) | {"Accept": accept}
            body = {"num_images": 4}
            answers = [
                await front.client.post("/generate", json=body, headers=headers) for _ in range(2)
            ]
            refused = answers[1]
            assert refused.status_code == 429
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert refused.json()["code"] == "over_quota"
            wait = int(refused.headers["Retry-After"])
            assert 1 <= wait <= 2 * 3600
            assert refused.headers["RateLimit-Policy"] == '"images";q=5;w=3600'
            assert re.fullmatch(rf'"images";r=1;t={wait}', refused.headers["RateLimit"])
        assert len(front.backend.tasks) == 1
        assert front.metric("gmem_generator_images_waiting") == 0


async def test_a_request_that_cannot_be_served_costs_no_quota() -> None:
    async with running_front(quota={"images": "5/hour"}) as front:
        for _ in range(5):
            assert (await front.generate(class_label="nobody", num_images=5)).status_code == 404
        assert (await front.generate(num_images=5)).status_code == 200
        assert (await front.generate()).status_code == 429


async def test_who_finds_no_place_gets_the_quota_back() -> None:
    quota = {"requests": "3/hour", "images": "16/hour"}
    async with running_front(quota=quota, max_waiting_images=8) as front:
        front.backend.gate.open.clear()
        first = asyncio.create_task(front.generate(num_images=8))
        await eventually(lambda: front.backend.running)
        assert (await front.generate(num_images=8)).json()["code"] == "overloaded"
        front.backend.gate.open.set()
        assert (await first).status_code == 200
        for _ in range(2):
            assert (await front.generate(num_images=4)).status_code == 200
        assert (await front.generate()).json()["code"] == "over_quota"


async def test_no_place_is_held_while_the_quota_is_asked(monkeypatch) -> None:
    held: list[float] = []

    async with running_front() as front:

        @asynccontextmanager
        async def spend(*_: object) -> AsyncIterator[Charge]:
            held.append(front.metric("gmem_generator_images_waiting"))
            yield Charge()

        monkeypatch.setattr(Quota, "spend", spend)
        assert (await front.generate(num_images=4)).status_code == 200
    assert held == [0]
