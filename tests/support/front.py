"""The front end on the doubles, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gmem_generator.app import create_app
from gmem_shared.settings import Settings
from tests.support.fakes import FakeBackend, FakeBank


def settings(
    *,
    security: Mapping[str, Any] = {},
    quota: Mapping[str, Any] = {},
    jobs: Mapping[str, Any] = {},
    redis: str = "memory://",
    store_url: str = "memory://front",
    **generator: Any,
) -> Settings:
    """Settings with some of the front end's changed; every alias is looked up anew."""
    return Settings(
        generator=generator,
        store={"poll_seconds": 1e-9, "url": store_url},
        security=security,
        quota=quota,
        jobs=jobs,
        redis={"url": redis},
    )


@dataclass
class Front:
    """An application with its doubles, its metrics, and a client."""

    app: FastAPI
    client: httpx.AsyncClient
    bank: FakeBank
    backend: FakeBackend
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    async def submit(self, key: str | None = None, **body: Any) -> httpx.Response:
        """Ask for a job."""
        wishes = {"Prefer": "respond-async"} | ({} if key is None else {"Idempotency-Key": key})
        return await self.client.post("/generate", json=body, headers=wishes)

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once it has ended."""
        while (job := await self.job(job_id))["ended_at"] is None:  # noqa: ASYNC110 (it is asked)
            await asyncio.sleep(0.01)
        return job

    async def generate(self, accept: str = "application/json", **body: Any) -> httpx.Response:
        return await self.client.post("/generate", json=body, headers={"Accept": accept})

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running_front(**changed: Any) -> AsyncIterator[Front]:
    """A started front end; `settings` are changed."""
    registry = CollectorRegistry()
    bank, backend = FakeBank(), FakeBackend()
    app = create_app(settings(**changed), bank, backend, registry)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://front") as client,
    ):
        yield Front(app, client, bank, backend, registry)


async def eventually(condition: Callable[[], Any]) -> None:
    """Let the loop run until the condition holds; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 (the condition is the code's under test, no event)
        await asyncio.sleep(0.001)
