"""Backends under test, and generation tasks run against them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry

from gmem_model.embedded import EmbeddedBackend
from gmem_model.engine.host import EngineHost
from gmem_model.engine.pool.messages import Setup
from gmem_model.engine.pool.pool import EnginePool
from gmem_shared.errors import CancelledError, ConflictError, NotReadyError
from gmem_shared.ports import Backend
from gmem_shared.settings import EngineSettings, LogSettings, StoreSettings
from gmem_shared.store import Store
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo
from tests.support.engine import make_task

PATIENCE_SECONDS = 90.0

B = TypeVar("B", bound=Backend)


def long_task() -> GenerationTask:
    """First images within seconds, the last ones later than any test waits."""
    return make_task(16_000, num_steps=100)


def embedded_backend(
    store_url: str, cache_dir: Path, model: str = "tiny", **engine: Any
) -> EmbeddedBackend:
    """The engine in this process, over a store that holds ``model``; ``engine`` are settings."""
    host = EngineHost(
        Store.from_url(store_url, cache_dir=cache_dir),
        EngineSettings(**engine),
        poll_seconds=0.1,
        default_model=model,
        registry=CollectorRegistry(),
    )
    return EmbeddedBackend(host)


def pool_backend(
    store_url: str, cache_dir: Path, model: str = "tiny", processes: int = 2, **engine: Any
) -> EmbeddedBackend:
    """As `embedded_backend`, with the engine in processes of their own."""
    return EmbeddedBackend(engine_pool(store_url, cache_dir, model, processes, **engine))


def engine_pool(
    store_url: str,
    cache_dir: Path,
    model: str = "tiny",
    processes: int = 2,
    registry: CollectorRegistry | None = None,
    **engine: Any,
) -> EnginePool:
    """Engine processes over a store that holds ``model``; ``engine`` are settings."""
    setup = Setup(
        StoreSettings(url=store_url, cache_dir=cache_dir, poll_seconds=0.1),
        EngineSettings(**engine),
        LogSettings(),
        f"{model}@production",
    )
    return EnginePool(setup, processes, registry=registry or CollectorRegistry())


def task_for(model: ModelInfo, n: int = 1, **changes: Any) -> GenerationTask:
    """A task of ``n`` images with a condition that the model takes."""
    snippets = np.random.default_rng(7).standard_normal((n, model.snippet_dimension or 1))
    condition: dict[str, Any] = {
        "snippet": {"snippets": snippets.astype(np.float32), "encoder": model.encoder},
        "label": {"snippets": None, "encoder": None, "labels": np.arange(n, dtype=np.int32) % 3},
        "none": {"snippets": None, "encoder": None},
    }[model.condition]
    pinned = f"{model.version.name}@{model.version.digest}"
    return make_task(n, **{"model": pinned, "num_steps": 3} | condition | changes)


async def images_of(backend: Backend, task: GenerationTask) -> list[GeneratedImage]:
    """All images of a task, by position."""
    images = [image async for image in backend.generate(task)]
    return sorted(images, key=lambda image: image.position)


async def pixels_of(backend: Backend, task: GenerationTask) -> list[bytes]:
    """The pixels of all images of a task, by position."""
    return [image.pixels.tobytes() for image in await images_of(backend, task)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition, generously."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def is_ready(backend: Backend) -> bool:
    try:
        await backend.check()
    except NotReadyError:
        return False
    return True


async def ready(backend: B) -> B:
    """Wait until a backend is ready."""
    await until(lambda: is_ready(backend))
    return backend


async def is_running(backend: Backend, task_id: str) -> bool:
    """Whether the engine refuses a second task of this id, or was about to cancel the first."""
    try:
        await images_of(backend, make_task(1, id=task_id, num_steps=1))
    except (CancelledError, ConflictError):
        return True
    return False


@contextlib.asynccontextmanager
async def running(backend: Backend, task: GenerationTask) -> AsyncIterator[None]:
    """The task is being worked on, and is given up at the end of the block."""
    async with contextlib.aclosing(backend.generate(task)) as images:
        await anext(images)
        yield
