"""Idempotency keys on Redis: the same promises by a real server and by the stand-in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from gmem_generator.jobs.connection import Connection
from gmem_generator.jobs.idempotency import Idempotency, Key
from gmem_generator.metrics import Metrics
from gmem_generator.schemas import GenerateRequest, Memory
from gmem_shared.errors import InFlightError, KeyReusedError, NotReadyError
from gmem_shared.settings import JobsSettings, RedisSettings
from tests.support.redis import bad_line, redis_server

pytestmark = pytest.mark.usefixtures("quiet")

REQUEST = GenerateRequest(num_images=3, memory=Memory(exclude=list(range(65536))))


@pytest.fixture(autouse=True)
def hurried(monkeypatch) -> None:
    monkeypatch.setattr("gmem_generator.jobs.idempotency._LOCK_MS", 400)
    monkeypatch.setattr("gmem_generator.jobs.idempotency._RENEW_SECONDS", 0.05)


class Keys:
    """Two front ends that answer requests of one key."""

    def __init__(self, url: str, **settings: object) -> None:
        self.connection = Connection(
            RedisSettings(url=url, timeout_seconds=0.5), Metrics(CollectorRegistry())
        )
        self.idempotency = Idempotency(self.connection, JobsSettings(**settings))
        self.key = Key.of("o", "k", REQUEST, job=False)
        self.seeds = itertools.count()

    async def pin(self) -> GenerateRequest:
        """Choose a seed, another one each time."""
        return REQUEST.model_copy(update={"seed": next(self.seeds), "bank": "digits@1"})

    def once(self, pin=None):
        return self.idempotency.once(self.key, REQUEST, pin or self.pin)

    async def lose_the_lock(self) -> None:
        async with self.connection.calling() as redis:
            await redis.delete(f"{self.key.name}:lock")

    async def lock(self) -> bytes | None:
        async with self.connection.calling() as redis:
            return await redis.get(f"{self.key.name}:lock")


class Contract:
    async def test_a_repeat_is_pinned_as_the_first_was(self, keys) -> None:
        async with keys.once() as first:
            assert (first.seed, first.bank, first.memory) == (0, "digits@1", REQUEST.memory)
        async with keys.once() as again:
            assert again == first

    async def test_what_comes_again_with_a_repeat_is_not_remembered(self, keys) -> None:
        async with keys.once():
            pass
        async with keys.connection.calling() as redis:
            assert await redis.strlen(keys.key.name) < 300

    async def test_two_that_are_first_at_once_are_one(self, keys) -> None:
        async def slowly() -> GenerateRequest:
            await keys.lose_the_lock()
            async with keys.once() as other:
                assert other.seed == 0
            return await keys.pin()

        async with keys.once(slowly) as request:
            assert request.seed == 0

    async def test_it_is_in_flight_however_long_it_takes_to_pin_and_to_answer(self, keys) -> None:
        async def slowly() -> GenerateRequest:
            await self.in_flight(keys, seconds=0.6)
            return await keys.pin()

        async with keys.once(slowly):
            await self.in_flight(keys, seconds=0.6)
        async with keys.once():
            pass

    async def in_flight(self, keys: Keys, seconds: float) -> None:
        await asyncio.sleep(seconds)
        with pytest.raises(InFlightError) as refused:
            async with keys.once():
                raise AssertionError("it is lent twice")
        assert 0 < refused.value.retry_after_seconds <= 0.4

    async def test_who_crashed_is_in_the_way_for_a_moment_only(self, keys, monkeypatch) -> None:
        monkeypatch.setattr("gmem_generator.jobs.idempotency._RENEW_SECONDS", 60)
        crashed = keys.once()
        await crashed.__aenter__()
        await asyncio.sleep(0.5)
        async with keys.once() as request:
            assert request.seed == 0

    async def test_nobody_releases_the_lock_of_another(self, keys, monkeypatch) -> None:
        monkeypatch.setattr("gmem_generator.jobs.idempotency._RENEW_SECONDS", 60)
        async with keys.once():
            await keys.lose_the_lock()
            other = keys.once()
            await other.__aenter__()
        assert await keys.lock() is not None
        await other.__aexit__(None, None, None)
        assert await keys.lock() is None

    async def test_a_key_of_another_request_is_reused_even_while_that_is_in_flight(
        self, keys
    ) -> None:
        async with keys.once():
            keys.key = Key.of("o", "k", GenerateRequest(), job=False)
            with pytest.raises(KeyReusedError):
                async with keys.once():
                    pass


class TestStandIn(Contract):
    @pytest.fixture
    async def keys(self) -> AsyncIterator[Keys]:
        keys = Keys("memory://")
        yield keys
        await keys.connection.close()


@pytest.mark.redis
class TestRedis(Contract):
    @pytest.fixture
    async def keys(self, redis_url) -> AsyncIterator[Keys]:
        keys = Keys(redis_url)
        async with keys.connection.calling() as redis:
            await redis.flushall()
        yield keys
        await keys.connection.close()

    async def test_a_lock_whose_reply_was_lost_is_ones_own(self, keys, redis_url) -> None:
        async with bad_line(redis_url) as line:
            front = Keys(line.url)
            line.cut_at(b"PTTL")
            async with front.once() as request:
                assert (request.seed, line.cut) == (0, True)
            await front.connection.close()
        assert await keys.lock() is None

    @pytest.mark.parametrize("required", [False, True])
    async def test_a_redis_that_goes_away_meanwhile_matters_where_promises_are_required(
        self, tmp_path, required
    ) -> None:
        with redis_server(tmp_path) as server:
            keys = Keys(server.url, idempotency_required=required)

            async def pin() -> GenerateRequest:
                server.kill()
                return await keys.pin()

            if required:
                with pytest.raises(NotReadyError):
                    async with keys.once(pin):
                        pass
            else:
                async with keys.once(pin) as request:
                    assert request.seed == 0
            await keys.connection.close()
