"""What every backend promises about what images are conditioned on: rows, labels, nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gmem_generator.triton_backend import TritonBackend
from gmem_shared.errors import InvalidRequestError, OutOfRangeError
from gmem_shared.ports import Backend
from gmem_shared.types import ModelInfo
from tests.support.backends import (
    embedded_backend,
    images_of,
    pixels_of,
    ready,
    task_for,
)
from tests.support.fakes import FakeBackend


@pytest.fixture(
    params=["fake", "embedded", "pool", pytest.param("triton", marks=pytest.mark.triton)]
)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend: Backend
    if request.param == "pool":
        yield await ready(request.getfixturevalue("pool"))
        return
    if request.param == "fake":
        backend = FakeBackend()
    elif request.param == "triton":
        backend = TritonBackend(request.getfixturevalue("triton").address)
    else:
        backend = embedded_backend(request.getfixturevalue("store_url"), tmp_path)
    await backend.start()
    yield await ready(backend)
    await backend.close()


async def one(backend: Backend, condition: str) -> ModelInfo:
    """A model of this condition."""
    return next(info for info in await backend.models() if info.condition == condition)


async def test_a_description_names_what_its_condition_needs_and_nothing_else(backend) -> None:
    models = await backend.models()
    assert {info.condition for info in models} == {"snippet", "label", "none"}
    for info in models:
        takes_snippets = info.condition == "snippet"
        assert (info.encoder is not None) == takes_snippets
        assert (info.snippet_dimension is not None) == takes_snippets
        assert (info.default_bank is not None) == takes_snippets
        assert bool(info.classes) == (info.condition == "label")
    assert {info.default_guidance_scale for info in models} > {None, 1.5}


async def test_each_row_of_every_model_becomes_one_image(backend) -> None:
    for info in await backend.models():
        images = await images_of(backend, task_for(info, 3))
        assert [image.position for image in images] == [0, 1, 2]
        assert {image.pixels.shape for image in images} == {info.image_shape}
        assert {image.model for image in images} == {info.version}


async def test_models_at_work_together_make_the_images_they_make_alone(backend) -> None:
    models = await backend.models()
    alone = [await pixels_of(backend, task_for(info, 4)) for info in models]
    together = await asyncio.gather(*(pixels_of(backend, task_for(info, 4)) for info in models * 3))
    assert together == alone * 3


@pytest.mark.parametrize("condition", ["snippet", "label"])
async def test_an_image_depends_on_its_condition(backend, condition) -> None:
    info = await one(backend, condition)
    changes = (
        [{"labels": np.array([label], np.int32)} for label in (0, 1, 2)]
        if condition == "label"
        else [
            {"snippets": np.eye(3, info.snippet_dimension, dtype=np.float32)[[i]]} for i in (0, 1)
        ]
    )
    images = [await pixels_of(backend, task_for(info, **change)) for change in changes]
    assert len({image for (image,) in images}) == len(changes)


async def test_an_unconditional_image_depends_on_its_noise(backend) -> None:
    info = await one(backend, "none")
    seeds = [np.array([seed], np.uint64) for seed in (1, 2)]
    first, second = [await pixels_of(backend, task_for(info, seeds=seed)) for seed in seeds]
    assert first != second


async def test_guidance_is_the_models_own_unless_asked_for(backend) -> None:
    guided = [info for info in await backend.models() if info.default_guidance_scale is not None]
    assert guided
    for info in guided:
        default = await pixels_of(backend, task_for(info))
        scale = info.default_guidance_scale
        assert await pixels_of(backend, task_for(info, guidance_scale=scale)) == default
        assert await pixels_of(backend, task_for(info, guidance_scale=1.0)) != default
        assert await pixels_of(backend, task_for(info, guidance_scale=scale + 2)) != default


async def test_a_model_that_cannot_be_guided_takes_no_scale_but_one(backend) -> None:
    info = next(info for info in await backend.models() if info.default_guidance_scale is None)
    plain = await pixels_of(backend, task_for(info))
    assert await pixels_of(backend, task_for(info, guidance_scale=1.0)) == plain
    with pytest.raises(InvalidRequestError):
        await images_of(backend, task_for(info, guidance_scale=4.0))


LABELS = np.zeros(1, np.int32)


@pytest.mark.parametrize(
    ("condition", "changes", "error"),
    [
        ("snippet", {"labels": LABELS}, InvalidRequestError),
        ("snippet", {"labels": LABELS, "snippets": None}, InvalidRequestError),
        ("label", {"labels": None}, InvalidRequestError),
        ("label", {"snippets": np.zeros((1, 64), np.float32)}, InvalidRequestError),
        ("label", {"labels": np.array([-2], np.int32)}, OutOfRangeError),
        ("label", {"labels": np.array([1000], np.int32)}, OutOfRangeError),
        ("none", {"labels": LABELS}, InvalidRequestError),
        ("none", {"snippets": np.zeros((1, 64), np.float32)}, InvalidRequestError),
    ],
)
async def test_what_a_model_does_not_take_is_refused(backend, condition, changes, error) -> None:
    with pytest.raises(error):
        await images_of(backend, task_for(await one(backend, condition), **changes))
