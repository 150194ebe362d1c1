"""Two real tritonservers behind one name: they share the work, and one may die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_replicas import TritonReplicas
from gmem_shared.store import Store
from tests.support.backends import long_task, pixels_of, until
from tests.support.engine import make_task
from tests.support.triton import TritonServer, running_triton

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def other(
    store_url: str, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with running_triton(store_url, tmp_path_factory.mktemp("other")) as server:
        yield server


@pytest.fixture
async def replicas(server: TritonServer, other: TritonServer) -> AsyncIterator[TritonReplicas]:
    async def resolve() -> set[str]:
        return {server.address, other.address}

    def connect(address: str) -> TritonBackend:
        return TritonBackend(address, heartbeat_seconds=1.0)

    backend = TritonReplicas(resolve, connect, refresh_seconds=0.2)
    await backend.start()
    await until(lambda: both_ready(backend))
    yield backend
    await backend.close()


async def both_ready(backend: TritonReplicas) -> bool:
    return len(backend._ready()) == 2


async def test_both_work_and_either_makes_the_same_images(server, other, replicas) -> None:
    images = replicas.generate(long_task())
    await anext(images)  # one of them is busy
    elsewhere = [await pixels_of(replicas, make_task(3, seed=s)) for s in range(2)]
    await images.aclose()
    for address in (server.address, other.address):
        alone = TritonBackend(address)
        await alone.start()
        assert [await pixels_of(alone, make_task(3, seed=s)) for s in range(2)] == elsewhere
        await alone.close()


async def test_a_dead_engine_costs_no_task_that_had_not_begun(other, replicas) -> None:
    other.stub.kill()
    made = await asyncio.gather(
        *(pixels_of(replicas, make_task(2, seed=seed)) for seed in range(20))
    )
    assert [len(images) for images in made] == [2] * 20
