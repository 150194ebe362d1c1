"""What every backend promises, held by the engine in process, in a pool and in Triton."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_replicas import TritonReplicas
from gmem_shared.errors import (
    DeadlineExceededError,
    EncoderMismatchError,
    GmemError,
    InvalidRequestError,
    NotReadyError,
    OutOfRangeError,
    UnknownModelError,
    UnknownSamplerError,
    UnknownVersionError,
)
from gmem_shared.ports import Backend
from gmem_shared.settings import GeneratorSettings, Settings
from tests.support.backends import (
    PATIENCE_SECONDS,
    embedded_backend,
    images_of,
    is_running,
    long_task,
    pixels_of,
    pool_backend,
    ready,
    running,
    until,
)
from tests.support.engine import make_task
from tests.support.models import FAMILIES, TEST_ENCODER

KINDS = [
    "embedded",
    "pool",
    *(pytest.param(kind, marks=pytest.mark.triton) for kind in ("triton", "triton-replicas")),
]


@pytest.fixture(params=KINDS)
async def backend(
    request: pytest.FixtureRequest, store_url: str, tmp_path: Path
) -> AsyncIterator[Backend]:
    if request.param == "pool":
        yield await ready(request.getfixturevalue("pool"))
        return
    async with opened(request, store_url, tmp_path) as backend:
        yield backend


@pytest.fixture(params=KINDS)
async def own_backend(
    request: pytest.FixtureRequest, store_url: str, tmp_path: Path
) -> AsyncIterator[Backend]:
    """A backend that no other test needs."""
    async with opened(request, store_url, tmp_path) as backend:
        yield backend


@contextlib.asynccontextmanager
async def opened(
    request: pytest.FixtureRequest, store_url: str, tmp_path: Path
) -> AsyncIterator[Backend]:
    makers: dict[str, Callable[[], Backend]] = {
        "embedded": lambda: embedded_backend(store_url, tmp_path),
        "pool": lambda: pool_backend(store_url, tmp_path),
        "triton": lambda: TritonBackend(request.getfixturevalue("triton").address),
        "triton-replicas": lambda: TritonReplicas.from_settings(
            Settings(
                generator=GeneratorSettings(
                    triton_address=request.getfixturevalue("triton").address
                )
            )
        ),
    }
    backend = makers[request.param]()
    await backend.start()
    yield await ready(backend)
    await backend.close()


async def test_describe_says_what_a_front_end_needs(backend) -> None:
    info = await backend.describe("tiny")
    assert (info.version.name, info.version.seq) == ("tiny", 1)
    assert info.encoder == TEST_ENCODER
    assert info.snippet_dimension == 64
    assert info.image_shape == (8, 8, 1)
    assert info.default_sampler in info.samplers
    assert info.aliases == ("production",)


async def test_models_lists_every_model_of_the_store(backend) -> None:
    assert await backend.models() == [await backend.describe(name) for name in sorted(FAMILIES)]


async def test_each_row_becomes_one_image(backend) -> None:
    images = await images_of(backend, make_task(5))
    version = (await backend.describe("tiny")).version
    assert [image.position for image in images] == [0, 1, 2, 3, 4]
    for image in images:
        assert image.pixels.shape == (8, 8, 1)
        assert image.pixels.dtype == np.uint8
        assert image.model == version
        assert image.evaluations == 4
        assert image.denoise_seconds > 0


async def test_seeds_use_all_64_bits(backend) -> None:
    tasks = [
        make_task(1, seeds=np.array([seed], np.uint64))
        for seed in (2**64 - 1, 2**63 - 1, 2**32 - 1)
    ]
    images = [await pixels_of(backend, task) for task in tasks]
    assert len({image for (image,) in images}) == len(tasks)


async def test_an_image_is_the_same_alone_and_in_company(backend) -> None:
    alone = await pixels_of(backend, make_task(3, seed=7))
    company = [make_task(count, seed=count, num_steps=count) for count in range(1, 17)]
    together = await asyncio.gather(
        *(pixels_of(backend, task) for task in [*company, make_task(3, seed=7)])
    )
    assert together[-1] == alone


async def test_a_short_task_overtakes_a_long_one(backend) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), running(backend, long_task()):
        assert len(await images_of(backend, make_task(2, num_steps=2))) == 2


async def test_closing_the_iterator_cancels_the_task(backend) -> None:
    task = long_task()
    async with running(backend, task):
        assert await is_running(backend, task.id)

    async def ended() -> bool:
        return not await is_running(backend, task.id)

    await until(ended)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "nobody"}, UnknownModelError),
        ({"model": "tiny@99"}, UnknownVersionError),
        ({"model": "?"}, InvalidRequestError),
        ({"encoder": "another-encoder"}, EncoderMismatchError),
        ({"sampler": "nosuch"}, UnknownSamplerError),
        ({"num_steps": 0}, OutOfRangeError),
        ({"num_steps": 10**9}, OutOfRangeError),
        ({"indices": np.array([-1, 0])}, OutOfRangeError),
        ({"indices": np.array([0])}, InvalidRequestError),
        ({"snippets": np.zeros((2, 3), np.float32)}, InvalidRequestError),
        ({"snippets": np.full((2, 64), np.nan, np.float32)}, OutOfRangeError),
        ({"deadline_seconds": 0.0}, DeadlineExceededError),
    ],
)
async def test_a_task_that_cannot_be_done_is_refused_by_name(backend, changes, error) -> None:
    with pytest.raises(error) as caught:
        await images_of(backend, make_task(2, **changes))
    assert caught.value.detail


async def test_a_refusal_names_the_field(backend) -> None:
    with pytest.raises(GmemError) as caught:
        await images_of(backend, make_task(1, num_steps=0))
    assert [error["field"] for error in caught.value.errors] == ["num_steps"]


async def test_a_refusal_does_not_disturb_other_tasks(backend) -> None:
    results = await asyncio.gather(
        images_of(backend, make_task(4)),
        images_of(backend, make_task(1, model="nobody")),
        images_of(backend, make_task(4)),
        return_exceptions=True,
    )
    good, refused, also_good = results
    assert isinstance(refused, UnknownModelError)
    assert isinstance(good, list)
    assert isinstance(also_good, list)
    assert len(good) == len(also_good) == 4


async def test_a_task_ends_at_its_deadline(backend) -> None:
    with pytest.raises(DeadlineExceededError):
        await images_of(backend, make_task(64, deadline_seconds=0.2, num_steps=1000))


async def test_unknown_models_are_not_described(backend) -> None:
    with pytest.raises(UnknownModelError):
        await backend.describe("nobody")


async def test_a_closed_backend_says_so(own_backend) -> None:
    await own_backend.close()
    with pytest.raises(NotReadyError):
        await own_backend.check()
    with pytest.raises(NotReadyError):
        await images_of(own_backend, make_task())
