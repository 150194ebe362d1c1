"""The front end on the real parts: mapped bank, running engine, an untrained model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gmem_bank.local import LocalBank
from gmem_generator.app import create_app
from gmem_model.presets import preset
from gmem_shared.settings import Settings
from gmem_shared.store import Store, Version
from gmem_shared.types import ClassInfo
from tests.support import banks
from tests.support.backends import embedded_backend, until
from tests.support.models import TEST_ENCODER, label_config, publish_tiny_model

pytestmark = pytest.mark.usefixtures("quiet")

REQUEST = {"class_label": "class-2", "num_images": 4, "seed": 42}
ROWS, CLASSES = 40, 4


def publish_bank(
    store: Store,
    seed: int,
    name: str = "tiny",
    encoder: str = TEST_ENCODER,
    alias: str | None = "production",
) -> Version:
    vectors = np.random.default_rng(seed).normal(size=(ROWS, preset("digits").condition.dimension))
    return banks.publish(
        store,
        name,
        alias=alias,
        vectors=vectors.astype(np.float16),
        labels=np.arange(ROWS, dtype=np.int32) % CLASSES,
        source_ids=np.arange(ROWS, dtype=np.int64) + 1000 * seed,
        classes=[ClassInfo(i, f"class-{i}") for i in range(CLASSES)],
        encoder=encoder,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    publish_bank(store, seed=1)
    publish_tiny_model(store)
    return store


@pytest.fixture
async def client(store: Store, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with front_end(store, tmp_path, "tiny") as client:
        yield client


@asynccontextmanager
async def front_end(store: Store, tmp_path: Path, model: str) -> AsyncIterator[httpx.AsyncClient]:
    """A front end that is ready, whose default model is this one."""
    settings = Settings(
        store={"poll_seconds": 0.02}, generator={"default_model": f"{model}@production"}
    )
    registry = CollectorRegistry()
    bank = LocalBank(store, settings, registry)
    backend = embedded_backend(str(tmp_path / "store"), tmp_path, model)
    app = create_app(settings, bank, backend, registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client,
    ):
        await until(lambda: says(client, "/readyz", '"status":"ready"'))
        yield client


async def says(client: httpx.AsyncClient, path: str, text: str) -> bool:
    return text in (await client.get(path)).text


async def generate(client: httpx.AsyncClient, **body) -> dict:
    answer = await client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_images_are_the_same_bytes_alone_and_among_others(client) -> None:
    alone = await generate(client, **REQUEST)
    others = [generate(client, class_label=i % CLASSES, seed=i, num_steps=i + 1) for i in range(24)]
    among, *_ = await asyncio.gather(generate(client, **REQUEST), *others)
    assert among["images"] == alone["images"]
    assert {image["class_label"] for image in alone["images"]} == {2}
    other_seed = await generate(client, **{**REQUEST, "seed": 43})
    assert other_seed["images"][0]["b64_png"] != alone["images"][0]["b64_png"]


@pytest.mark.parametrize("sampler", ["euler", "heun", "ab2", "euler-maruyama"])
async def test_every_sampler_replays_bit_for_bit(client, sampler) -> None:
    first = await generate(client, **REQUEST, sampler=sampler, num_steps=3)
    again = await generate(client, replay=first["images"][3]["replay"])
    assert again["images"] == [first["images"][3]]


async def test_a_swapped_bank_is_used_and_old_images_can_still_be_made(client, store) -> None:
    old = await generate(client, **REQUEST)
    publish_bank(store, seed=2)
    seen = {old["bank"]["seq"]}
    while seen != {1, 2}:
        answer = await generate(client, **REQUEST)
        seen.add(answer["bank"]["seq"])
        sources = {image["snippets"][0]["source_id"] // 1000 for image in answer["images"]}
        assert sources == {answer["bank"]["seq"]}
    again = await generate(client, replay=old["images"][0]["replay"])
    assert again["images"] == [old["images"][0]]


async def test_a_bank_of_another_encoder_is_refused_before_anything_is_drawn(client, store) -> None:
    publish_bank(store, seed=1, name="foreign", encoder="another-encoder")
    status = 404
    while status == 404:  # until the bank has been noticed
        answer = await client.post("/generate", json={"bank": "foreign"})
        status = answer.status_code
    assert (status, answer.json()["code"]) == (409, "encoder_mismatch")
    assert "another-encoder" in answer.json()["detail"]


async def test_a_corrupt_bank_version_is_named_and_never_served(client, store, tmp_path) -> None:
    version = publish_bank(store, seed=3, alias=None)
    banks.flip_byte(tmp_path / "store", version, "snippets.safetensors")
    answer = await client.post("/generate", json={"bank": f"tiny@{version.digest}"})
    assert (answer.status_code, answer.json()["code"]) == (503, "corrupt_version")
    assert (await generate(client, **REQUEST))["bank"]["seq"] == 1


async def test_a_label_model_is_served_from_a_store_without_any_bank(tmp_path) -> None:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    publish_tiny_model(store, "sit", config=label_config())
    async with front_end(store, tmp_path, "sit") as client:
        drawn = await generate(client, seed=42, num_images=8)
        assert drawn["bank"] is None
        classes = [image["class_label"] for image in drawn["images"]]
        assert set(classes) == {0, 1, 2}
        asked = await generate(client, seed=42, num_images=8, class_label="dog")
        same = [
            (one["b64_png"] == other["b64_png"]) == (label == 1)
            for one, other, label in zip(asked["images"], drawn["images"], classes, strict=True)
        ]
        assert all(same)


async def test_a_cancelled_request_stops_costing_evaluations(client) -> None:
    slow = asyncio.create_task(generate(client, num_images=64, num_steps=1000))
    await until(lambda: says(client, "/metrics", "gmem_generator_images_waiting 64.0"))
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert await says(client, "/metrics", "gmem_generator_images_waiting 0.0")
    assert len((await generate(client, **REQUEST))["images"]) == 4
