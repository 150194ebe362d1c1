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
    *, security: Mapping[str, Any] = {}, quota: Mapping[str, Any] = {}, **generator: Any
) -> Settings:
    """Settings with some of the front end's changed; every alias is looked up anew."""
    return Settings(
        generator=generator, store={"poll_seconds": 1e-9}, security=security, quota=quota
    )


@dataclass
class Front:
    """An application with its doubles, its metrics, and a client."""

    app: FastAPI
    client: httpx.AsyncClient
    bank: FakeBank
    backend: FakeBackend
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

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
