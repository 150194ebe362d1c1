"""Many Tritons behind one name, played by doubles that the test starts, stops and breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from gmem_generator.triton_replicas import TritonReplicas, addresses_of
from gmem_shared.errors import NotReadyError, UnknownModelError
from gmem_shared.settings import GeneratorSettings, Settings
from gmem_shared.types import GeneratedImage, GenerationTask
from tests.support.fakes import DIMENSION, ENCODER, FakeBackend

AWAY = NotReadyError("the stub is dead")


class Cluster:
    """What a name stands for now, and who was ever behind it."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = set(addresses)
        self.pods: dict[str, FakeBackend] = {a: FakeBackend() for a in addresses}
        self.unknown = False

    async def resolve(self) -> set[str]:
        if self.unknown:
            raise OSError("Name or service not known")
        return set(self.addresses)

    def connect(self, address: str) -> FakeBackend:
        return self.pods.setdefault(address, FakeBackend())

    def tasks(self) -> dict[str, int]:
        return {address: len(pod.tasks) for address, pod in self.pods.items()}


@contextlib.asynccontextmanager
async def replicas(cluster: Cluster) -> AsyncIterator[TritonReplicas]:
    backend = TritonReplicas(cluster.resolve, cluster.connect, refresh_seconds=0.01)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


def task(count: int = 1, seed: int = 0) -> GenerationTask:
    return GenerationTask(
        id=f"task-{seed}",
        model="digits",
        snippets=np.full((count, DIMENSION), seed, np.float32),
        encoder=ENCODER,
        seeds=np.full(count, seed, np.uint64),
        indices=np.arange(count),
    )


async def images(backend: TritonReplicas, asked: GenerationTask) -> list[GeneratedImage]:
    return [image async for image in backend.generate(asked)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def test_a_task_goes_to_whoever_owes_the_fewest_images() -> None:
    cluster = Cluster("a:1", "b:1")
    for pod in cluster.pods.values():
        pod.gate.open.clear()
    async with replicas(cluster) as backend:
        for pod in cluster.pods.values():  # let the first signs of life through
            await until(lambda pod=pod: pod.gate.waiting == 1)
            pod.gate.open.set()
        await backend.check()
        await until(lambda: len(backend._ready()) == 2)
        for pod in cluster.pods.values():
            pod.gate.passes = 0
        running = []
        for seed, count in enumerate((4, 1, 1, 1)):
            running.append(asyncio.create_task(images(backend, task(count, seed))))
            await until(lambda n=seed + 1: sum(cluster.tasks().values()) == n)
        assert sorted(cluster.tasks().values()) == [1, 3]
        for pod in cluster.pods.values():
            pod.gate.passes = None
            pod.gate.open.set()
        assert [len(made) for made in await asyncio.gather(*running)] == [4, 1, 1, 1]


async def test_replicas_come_and_go() -> None:
    cluster = Cluster("a:1")
    async with replicas(cluster) as backend:
        await backend.check()
        cluster.addresses = {"a:1", "b:1"}
        await until(lambda: len(backend._ready()) == 2)
        cluster.addresses = {"b:1"}
        await until(lambda: not cluster.pods["a:1"].started)
        await images(backend, task())
    assert cluster.tasks() == {"a:1": 0, "b:1": 1}
    assert not cluster.pods["b:1"].started


async def test_a_broken_replica_gets_nothing_until_it_gives_a_sign_of_life() -> None:
    cluster = Cluster("a:1", "b:1")
    cluster.pods["a:1"].gate.failure = AWAY
    async with replicas(cluster) as backend:
        await backend.check()
        for seed in range(5):
            await images(backend, task(seed=seed))
        assert cluster.tasks() == {"a:1": 0, "b:1": 5}
        cluster.pods["a:1"].gate.failure = None
        await until(lambda: len(backend._ready()) == 2)


async def test_a_task_without_images_yet_is_made_by_another() -> None:
    cluster = Cluster("a:1", "b:1")
    async with replicas(cluster) as backend:
        await until(lambda: len(backend._ready()) == 2)
        cluster.pods["a:1"].fail_after = (0, AWAY)
        for seed in range(20):
            assert len(await images(backend, task(2, seed))) == 2


async def test_a_task_with_images_fails_as_it_would_with_one_triton() -> None:
    cluster = Cluster("a:1", "b:1")
    async with replicas(cluster) as backend:
        await until(lambda: len(backend._ready()) == 2)
        for pod in cluster.pods.values():
            pod.fail_after = (1, AWAY)
        with pytest.raises(NotReadyError, match="stub is dead"):
            await images(backend, task(2))


async def test_a_task_that_nobody_can_do_takes_nobody_away() -> None:
    cluster = Cluster("a:1", "b:1")
    async with replicas(cluster) as backend:
        await until(lambda: len(backend._ready()) == 2)
        for pod in cluster.pods.values():
            pod.fail_after = (0, AWAY)
        with pytest.raises(NotReadyError, match=r"^the stub is dead$"):
            await images(backend, task())
        assert cluster.tasks() == {"a:1": 1, "b:1": 1}
        for pod in cluster.pods.values():
            pod.fail_after = None
        assert len(await images(backend, task(seed=1))) == 1


async def test_a_refusal_is_final() -> None:
    cluster = Cluster("a:1", "b:1")
    async with replicas(cluster) as backend:
        await backend.check()
        for pod in cluster.pods.values():
            pod.fail_after = (0, UnknownModelError("no such model"))
        with pytest.raises(UnknownModelError):
            await images(backend, task())
        assert sum(cluster.tasks().values()) == 1


async def test_none_ready_says_why_of_each() -> None:
    cluster = Cluster("a:1", "b:1")
    for pod in cluster.pods.values():
        pod.gate.failure = AWAY
    async with replicas(cluster) as backend:
        with pytest.raises(NotReadyError, match="a:1: the stub is dead"):
            await backend.check()
        cluster.addresses = set()
        await until(lambda: not backend._replicas)
        with pytest.raises(NotReadyError, match="no address"):
            await backend.check()


async def test_a_name_server_that_is_away_takes_nobody_away() -> None:
    cluster = Cluster("a:1")
    async with replicas(cluster) as backend:
        await backend.check()
        cluster.unknown = True
        await asyncio.sleep(0.05)
        assert len(await images(backend, task())) == 1


async def test_an_unknown_name_is_a_reason() -> None:
    cluster = Cluster()
    cluster.unknown = True
    async with replicas(cluster) as backend:
        with pytest.raises(NotReadyError, match="Name or service not known"):
            await backend.check()


async def test_closing_the_iterator_cancels_the_task_and_its_debt() -> None:
    cluster = Cluster("a:1")
    async with replicas(cluster) as backend:
        await backend.check()
        iterator = backend.generate(task(4))
        await anext(iterator)
        await iterator.aclose()
        assert cluster.pods["a:1"].stopped == ["task-0"]
        assert [replica.images for replica in backend._replicas.values()] == [0]


async def test_a_closed_backend_says_so() -> None:
    async with replicas(Cluster("a:1")) as backend:
        await backend.check()
    with pytest.raises(NotReadyError, match="shutting down"):
        await images(backend, task())
    with pytest.raises(NotReadyError):
        await backend.check()


async def test_a_name_stands_for_its_addresses() -> None:
    assert await addresses_of("127.0.0.1", 8201) == {"127.0.0.1:8201"}
    assert await addresses_of("::1", 8201) == {"[::1]:8201"}
    with pytest.raises(OSError):  # noqa: PT011 (its text is the system's)
        await addresses_of("name.invalid", 8201)


async def test_the_address_of_the_settings_is_followed() -> None:
    settings = Settings(generator=GeneratorSettings(triton_address="127.0.0.1:9"))
    backend = TritonReplicas.from_settings(settings)
    await backend.start()
    with pytest.raises(NotReadyError, match=r"127\.0\.0\.1:9"):
        await backend.check()
    await backend.close()
