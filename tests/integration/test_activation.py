"""A version is in use as soon as its alias has moved, however seldom anybody polls."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from gmem_bank.local import LocalBank
from gmem_generator.app import create_app
from gmem_model.embedded import EmbeddedBackend
from gmem_model.engine.host import EngineHost
from gmem_shared.announcements import Announcer
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from tests.integration.test_front_end_embedded import publish_bank, says
from tests.support.backends import until
from tests.support.models import publish_tiny_model
from tests.support.redis import running_redis

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("quiet")]

POLL_SECONDS, AT_ONCE_SECONDS = 600.0, 5.0


async def test_bank_engine_and_front_end_follow_a_move_before_any_poll(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        settings = Settings(
            store={"poll_seconds": POLL_SECONDS},
            redis={"url": url},
            generator={"default_model": "tiny@production"},
        )
        told = Announcer(settings.redis, "moved")
        store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache", moved=told)
        publish_bank(store, seed=1)
        publish_tiny_model(store)
        registry = CollectorRegistry()
        engine = EngineHost(
            store,
            settings.engine,
            poll_seconds=POLL_SECONDS,
            default_model="tiny@production",
            registry=registry,
            redis=settings.redis,
        )
        bank = LocalBank(store, settings, registry)
        app = create_app(settings, bank, EmbeddedBackend(engine), registry)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://front") as client,
        ):
            await until(lambda: says(client, "/readyz", '"status":"ready"'))

            async def versions() -> tuple[int, int]:
                answer = await client.post("/generate", json={"num_steps": 1})
                return answer.json()["bank"]["seq"], answer.json()["model"]["seq"]

            assert await versions() == (1, 1)
            began = time.monotonic()
            publish_bank(store, seed=2)
            publish_tiny_model(store, seed=2)

            async def moved() -> bool:
                return await versions() == (2, 2)

            await until(moved)
            assert time.monotonic() - began < AT_ONCE_SECONDS
