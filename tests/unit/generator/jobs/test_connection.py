"""What a front end thinks of its Redis."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from gmem_generator.jobs.connection import Connection
from gmem_generator.metrics import Metrics
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import RedisSettings
from tests.support.redis import running_redis


@pytest.mark.redis
async def test_a_redis_that_is_full_is_away_though_it_answers_until_it_has_room(tmp_path) -> None:
    registry = CollectorRegistry()

    def up() -> float | None:
        return registry.get_sample_value("gmem_generator_redis_up")

    with running_redis(tmp_path) as url:
        connection = Connection(RedisSettings(url=url), Metrics(registry))
        async with connection.calling() as redis:
            await redis.config_set("maxmemory", "1")
        with pytest.raises(NotReadyError, match="OutOfMemoryError"):
            async with connection.calling() as redis:
                await redis.set("k", "v")
        async with connection.calling() as redis:
            assert await redis.get("k") is None
        with pytest.raises(NotReadyError):
            await connection.check_room()
        assert (up(), connection.problem is None) == (0, False)
        async with connection.calling() as redis:
            await redis.config_set("maxmemory", "0")
        await connection.check_room()
        assert (up(), connection.problem) == (1, None)
        await connection.close()
