"""Quotas in a real Redis: shared by replicas, and what happens while it is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry

from gmem_generator.metrics import Metrics
from gmem_generator.quota import Quota
from gmem_shared.errors import NotReadyError, OverQuotaError
from gmem_shared.keys import Principal
from gmem_shared.settings import QuotaSettings, RedisSettings
from tests.support.quota import spent
from tests.support.redis import running_redis
from tests.support.stack import free_port

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("quiet")]

ALICE = Principal("alice", frozenset(["generate"]))


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def quota_of(url: str, clock: Clock | None = None, **settings: str) -> Quota:
    metrics = Metrics(CollectorRegistry())
    return Quota(QuotaSettings(**settings), RedisSettings(url=url), metrics, clock or Clock())


async def test_replicas_count_together_and_no_request_is_lost_or_counted_twice(
    tmp_path: Path,
) -> None:
    with running_redis(tmp_path) as url:
        replicas = [quota_of(url, requests="50/hour", images="10000/hour") for _ in range(4)]
        results = await asyncio.gather(
            *(spent(replicas[n % 4], ALICE, 10) for n in range(100)), return_exceptions=True
        )
        assert sum(result is None for result in results) == 50
        assert sum(isinstance(result, OverQuotaError) for result in results) == 50
        for replica in replicas:
            await replica.close()


async def test_who_waits_as_long_as_told_is_let_in(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        quota = quota_of(url, images="10/second")
        await spent(quota, ALICE, 10)
        with pytest.raises(OverQuotaError) as refused:
            await spent(quota, ALICE, 6)
        wait = refused.value.retry_after_seconds
        assert wait is not None
        assert 0 < wait < 2
        await asyncio.sleep(wait + 0.02)
        await spent(quota, ALICE, 6)
        await quota.close()


async def test_what_is_refused_or_not_kept_costs_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        quota = quota_of(url, requests="2/hour", images="10/hour")
        await spent(quota, ALICE, 8)
        for _ in range(3):
            with pytest.raises(OverQuotaError, match="images"):
                await spent(quota, ALICE, 3)
            async with quota.spend(ALICE, 2):
                pass
        await spent(quota, ALICE, 2)
        with pytest.raises(OverQuotaError, match="requests"):
            await spent(quota, ALICE, 1)
        await quota.close()


async def test_a_full_redis_lets_nobody_pass_uncounted(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, redis.Redis.from_url(url) as server:
        quota = quota_of(url, requests="2/hour", redis_away="allow")
        await spent(quota, ALICE, 1)
        server.config_set("maxmemory", 1)
        for _ in range(2):
            with pytest.raises(NotReadyError, match="found it full"):
                await spent(quota, ALICE, 1)
        server.config_set("maxmemory", 0)
        await spent(quota, ALICE, 1)
        with pytest.raises(OverQuotaError):
            await spent(quota, ALICE, 1)
        await quota.close()


async def test_counting_goes_on_when_redis_is_back(tmp_path: Path) -> None:
    port, clock = free_port(), Clock()
    with running_redis(tmp_path, port) as url:
        quota = quota_of(url, clock, requests="1/hour")
        await spent(quota, ALICE, 1)
        with pytest.raises(OverQuotaError):
            await spent(quota, ALICE, 1)
    await spent(quota, ALICE, 1)  # nobody counts
    (empty := tmp_path / "empty").mkdir()
    with running_redis(empty, port):
        await spent(quota, ALICE, 1)  # nor is Redis asked again yet
        clock.seconds = 6
        await spent(quota, ALICE, 1)  # it forgot what was counted: this is the first
        with pytest.raises(OverQuotaError):
            await spent(quota, ALICE, 1)
    await quota.close()
