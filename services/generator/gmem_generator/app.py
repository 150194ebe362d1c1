"""Puts the front end together. Knows the ports `BankSource` and `Backend`, no implementation."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gmem_generator import openapi, problems
from gmem_generator.access import scope_needed
from gmem_generator.admission import Admission
from gmem_generator.body import JsonRoute
from gmem_generator.direct import Direct
from gmem_generator.drawing import Drawer
from gmem_generator.jobs.service import Jobs
from gmem_generator.lifecycle import Drain
from gmem_generator.memo import Memo
from gmem_generator.metrics import Metrics
from gmem_generator.pipeline import Pipeline
from gmem_generator.quota import Quota
from gmem_generator.readiness import Readiness
from gmem_generator.resolve import Resolver
from gmem_generator.routes import generate, health, page, reads
from gmem_generator.routes import jobs as jobs_routes
from gmem_generator.routes.generate import Generation
from gmem_shared.announcements import Subscriber
from gmem_shared.errors import GmemError
from gmem_shared.guard import Guard
from gmem_shared.keys import Keyring
from gmem_shared.ports import Backend, BankSource
from gmem_shared.request_scope import RequestScope
from gmem_shared.security_headers import security_headers
from gmem_shared.settings import RedisSettings, SecuritySettings, Settings
from gmem_shared.store.store import utc_now

# Exact in JavaScript, whose numbers end at 2^53.
_random_seed = functools.partial(secrets.randbelow, 2**53)


def create_app(
    settings: Settings,
    bank: BankSource,
    backend: Backend,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """Build the front end.

    Starting the application starts ``bank`` and ``backend``, stopping it closes them.
    ``app.state`` holds what a server needs: ``drain``, ``keyring`` and ``readiness``.

    Args:
        settings: Limits and defaults.
        bank: Serves the snippets.
        backend: Makes the images.
        registry: Where the metrics go; by default a new one, for ``/metrics`` alone.
    """
    ours = settings.generator
    max_images = min(ours.max_images, ours.max_waiting_images)
    clock = time.monotonic
    metrics = Metrics(CollectorRegistry() if registry is None else registry)
    drain = Drain()
    banks = Memo(bank.describe, settings.store.poll_seconds, clock)
    models = Memo(backend.describe, settings.store.poll_seconds, clock)
    resolver = Resolver(
        banks,
        models,
        default_model=ours.default_model,
        max_images=max_images,
        random_seed=_random_seed,
    )
    quota = Quota(settings.quota, settings.redis, metrics, clock)
    admission = Admission(ours.max_waiting_images, metrics, clock)
    pipeline = Pipeline(
        bank,
        backend,
        resolver=resolver,
        admission=admission,
        drawer=Drawer(bank, metrics, ours.draw_window_ms / 1000),
        drain=drain,
        metrics=metrics,
        default_deadline_ms=ours.default_deadline_ms,
        clock=clock,
    )
    jobs = Jobs.of(
        settings,
        pipeline,
        admission=admission,
        drain=drain,
        metrics=metrics,
        answer_images=max_images,
        clock=clock,
        time_of_day=utc_now,
    )
    readiness = Readiness(bank, backend, drain, metrics, resolver, jobs.connection)

    def forget() -> None:
        banks.forget()
        models.forget()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await bank.start()
        try:
            await backend.start()
            try:
                async with _hearing(settings.redis, forget), jobs.working():
                    yield
            finally:
                await backend.close()
        finally:
            await bank.close()
            await quota.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.drain, app.state.readiness = drain, readiness
    problems.install(app)
    openapi.install(app, num_images=max_images, num_steps=settings.engine.max_steps)
    generation = Generation(pipeline, quota, metrics, admission.gate, jobs)
    generating = generate.router(generation, ours.max_body_bytes)
    app.include_router(generating)
    app.include_router(jobs_routes.router(jobs.office, quota))
    app.include_router(generating, prefix="/v1", include_in_schema=False)
    operations = [route for route in generating.routes if isinstance(route, JsonRoute)]
    paths = {f"{prefix}{route.path}": route for prefix in ("", "/v1") for route in operations}
    _surround(app, paths, settings.security, metrics, drain)
    app.include_router(
        reads.router(bank, backend, banks, resolver, default_model=ours.default_model)
    )
    app.include_router(health.router(readiness, metrics, workers=ours.workers))
    app.include_router(page.router())
    app.router.routes.append(page.assets())
    return app


def _surround(
    app: FastAPI,
    operations: Mapping[str, JsonRoute],
    security: SecuritySettings,
    metrics: Metrics,
    drain: Drain,
) -> None:
    """Put around the application what sees a request before it is routed, innermost first."""

    def refuse(error: GmemError) -> problems.ProblemResponse:
        metrics.refused.labels(error.code).inc()
        return problems.of_error(error)

    app.add_middleware(Direct, routes=operations)
    keyring = app.state.keyring = Keyring(security.api_keys_file)
    app.add_middleware(Guard, keyring=keyring, needs=scope_needed, refuse=refuse)
    app.add_middleware(
        RequestScope,
        headers=security_headers(page.CONTENT_POLICY, tls=security.tls_cert_file is not None),
        respond=problems.of_error,
        begins=True,
        finished=metrics.finished,
        leaving=lambda: drain.leaving,
    )


@asynccontextmanager
async def _hearing(redis: RedisSettings, heard: Callable[[], None]) -> AsyncIterator[None]:
    """Call a function on the event loop whenever a bank or engine has taken a version into use."""
    loop = asyncio.get_running_loop()

    def pass_on() -> None:
        loop.call_soon_threadsafe(heard)

    subscriber = Subscriber(redis, "served", pass_on)
    subscriber.start()
    try:
        yield
    finally:
        await asyncio.to_thread(subscriber.close)
