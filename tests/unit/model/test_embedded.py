"""The engine in process, behind asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gmem_model.embedded import EmbeddedBackend
from gmem_model.engine import loader, models
from gmem_model.engine.host import EngineHost
from gmem_model.guidance import GuidedNetwork
from gmem_shared import tracing
from gmem_shared.errors import (
    DeadlineExceededError,
    EncoderMismatchError,
    NotReadyError,
    UnknownModelError,
)
from gmem_shared.model_config import ModelConfig
from gmem_shared.ports import Backend
from gmem_shared.settings import EngineSettings
from gmem_shared.store import OpenVersion, Store
from gmem_shared.types import GeneratedImage
from tests.support.engine import PATIENCE_SECONDS, eventually, is_ready, make_task
from tests.support.models import publish_tiny_model
from tests.support.tracing import spans_in_memory


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path), cache_dir=tmp_path)


@pytest.fixture
async def backend(store: Store, registry: CollectorRegistry) -> AsyncIterator[Backend]:
    publish_tiny_model(store)
    host = EngineHost(
        store,
        EngineSettings(),
        poll_seconds=0.05,
        default_model="tiny@production",
        registry=registry,
    )
    backend: Backend = EmbeddedBackend(host)
    await backend.start()
    await asyncio.to_thread(eventually, lambda: is_ready(host))
    yield backend
    await backend.close()


class HeldLoading:
    """Loads no network until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, opened: OpenVersion, config: ModelConfig) -> GuidedNetwork:
        self.begun.set()
        assert self.go.wait(PATIENCE_SECONDS)
        return models.open_network(opened, config)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldLoading]:
    held = HeldLoading()
    monkeypatch.setattr(loader, "open_network", held)
    yield held
    held.go.set()


async def collect(images: AsyncIterator[GeneratedImage]) -> list[GeneratedImage]:
    return [image async for image in images]


async def until_no_row_is_left(registry: CollectorRegistry) -> None:
    def rows() -> float:
        names = ("gmem_engine_rows_waiting", "gmem_engine_rows_running")
        return sum(registry.get_sample_value(name) or 0 for name in names)

    await asyncio.to_thread(eventually, lambda: rows() == 0)


async def test_every_image_of_a_task_is_yielded_once(backend: Backend) -> None:
    images = await collect(backend.generate(make_task(n=5)))
    assert sorted(image.position for image in images) == list(range(5))


async def test_concurrent_tasks_give_what_they_give_alone(backend: Backend) -> None:
    alone = await collect(backend.generate(make_task(n=3, seed=7)))
    many = await asyncio.gather(
        *(collect(backend.generate(make_task(n=3, seed=7))) for _ in range(20))
    )
    for images in many:
        for image, reference in zip(images, alone, strict=True):
            assert image.pixels.tobytes() == reference.pixels.tobytes()


async def test_closing_the_iterator_cancels_what_is_left(
    backend: Backend, registry: CollectorRegistry
) -> None:
    images = backend.generate(make_task(n=2000, num_steps=50))
    await anext(images)
    await images.aclose()  # type: ignore[attr-defined]
    await until_no_row_is_left(registry)
    assert await collect(backend.generate(make_task()))


async def test_cancelling_the_consumer_cancels_the_task_at_any_moment(
    backend: Backend, registry: CollectorRegistry
) -> None:
    for turns in range(12):
        consumer = asyncio.create_task(collect(backend.generate(make_task(n=2000, num_steps=1000))))
        for _ in range(turns):
            await asyncio.sleep(0)
        consumer.cancel()
        await asyncio.wait([consumer])
        assert consumer.cancelled()
    await until_no_row_is_left(registry)


async def test_a_refusal_is_raised_by_the_first_step(backend: Backend) -> None:
    with pytest.raises(EncoderMismatchError):
        await collect(backend.generate(make_task(encoder="other")))
    with pytest.raises(UnknownModelError):
        await collect(backend.generate(make_task(model="nobody")))


async def test_a_failure_on_the_way_is_raised(backend: Backend) -> None:
    with pytest.raises(DeadlineExceededError):
        await collect(backend.generate(make_task(num_steps=1000, deadline_seconds=0.001)))


async def test_closing_lets_running_tasks_finish(backend: Backend) -> None:
    images = backend.generate(make_task(n=100, num_steps=20))
    first = await anext(images)
    await backend.close()
    rest = await collect(images)
    assert len({first.position, *(image.position for image in rest)}) == 100


async def test_tasks_that_wait_for_a_version_hold_up_no_other(
    backend: Backend, store: Store, loading: HeldLoading
) -> None:
    publish_tiny_model(store, name="cold")
    waiting = [
        asyncio.create_task(collect(backend.generate(make_task(model="cold")))) for _ in range(20)
    ]
    await asyncio.to_thread(loading.begun.wait)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await backend.describe("tiny")).version.name == "tiny"
            assert await collect(backend.generate(make_task()))
        assert not any(task.done() for task in waiting)
    finally:
        loading.go.set()
    assert all(await asyncio.gather(*waiting))


async def test_a_deadline_passes_while_a_version_is_loaded(
    backend: Backend, store: Store, loading: HeldLoading
) -> None:
    publish_tiny_model(store, name="cold")
    task = make_task(model="cold", deadline_seconds=0.05)
    waiting = asyncio.create_task(collect(backend.generate(task)))
    await asyncio.to_thread(loading.begun.wait)
    await asyncio.sleep(0.05)
    loading.go.set()
    with pytest.raises(DeadlineExceededError):
        await waiting


async def test_a_closed_backend_refuses(backend: Backend) -> None:
    await backend.close()
    with pytest.raises(NotReadyError):
        await collect(backend.generate(make_task()))


async def test_models_are_described(backend: Backend) -> None:
    assert [model.version.name for model in await backend.models()] == ["tiny"]
    assert (await backend.describe("tiny@1")).version.seq == 1


async def test_the_stages_of_the_last_image_become_spans_of_the_present_trace(
    backend: Backend,
) -> None:
    with spans_in_memory() as exporter:
        with tracing.span("generate"):
            async for _ in backend.generate(make_task(n=3)):
                pass
        *stages, generate = exporter.get_finished_spans()
    assert [span.name for span in stages] == ["queue", "denoise", "decode"]
    assert {span.parent.span_id for span in stages} == {generate.context.span_id}
    assert generate.start_time <= stages[0].start_time
    assert stages[-1].end_time <= generate.end_time
