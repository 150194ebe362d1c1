"""Imported checkpoints of every published family, side by side in one front end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from gmem_bank.local import LocalBank
from gmem_generator.app import create_app
from gmem_generator.triton_backend import TritonBackend
from gmem_shared.ports import Backend
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from tests.support.backends import embedded_backend, until
from tests.support.published import import_published, published
from tests.support.triton import running_triton

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]

DEFAULT = "sit-train"
MODELS = len(published())


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("families")
    import_published(str(folder / "store"), folder)
    return str(folder / "store")


@asynccontextmanager
async def front_end(
    store_url: str, cache: Path, backend: Backend
) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(generator={"default_model": DEFAULT})
    registry = CollectorRegistry()
    bank = LocalBank(Store.from_url(store_url, cache), settings, registry)
    app = create_app(settings, bank, backend, registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://front", timeout=120
        ) as client,
    ):

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(ready)
        yield client


def requests(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each model one request as it is published, and one guided if it can be."""
    plain = [{"model": model["version"]["name"], "num_images": 2, "seed": 7} for model in models]
    guided = [
        request | {"guidance_scale": 4.0}
        for request, model in zip(plain, models, strict=True)
        if model["default_guidance_scale"] is not None
    ]
    return plain + guided


async def generate(client: httpx.AsyncClient, request: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post("/generate", json=request)
    assert answer.status_code == 200, f"{request}: {answer.text}"
    made: dict[str, Any] = answer.json()
    return made


def check_origin(answer: dict[str, Any], condition: str) -> None:
    """An image of a snippet model names its row, one of a label model its class."""
    draws = condition == "snippet"
    assert (answer["bank"] is not None) == draws
    for image in answer["images"]:
        assert len(image["snippets"]) == draws
        assert (image["class_label"] is not None) == (condition == "label")


async def test_every_imported_checkpoint_is_served_and_replayed(store_url, tmp_path) -> None:
    backend = embedded_backend(store_url, tmp_path, DEFAULT, max_models=MODELS)
    async with front_end(store_url, tmp_path, backend) as client:
        models = (await client.get("/models")).json()["models"]
        assert len(models) == MODELS
        conditions = {model["version"]["name"]: model["condition"] for model in models}
        for request in requests(models):
            answer = await generate(client, request)
            check_origin(answer, conditions[request["model"]])
            first, second = answer["images"]
            assert first["b64_png"] != second["b64_png"]
            assert (await generate(client, {"replay": second["replay"]}))["images"] == [second]


@pytest.mark.triton
async def test_all_at_once_triton_makes_the_very_images_of_the_embedded_engine(
    store_url, tmp_path
) -> None:
    backend = embedded_backend(store_url, tmp_path, DEFAULT, max_models=MODELS)
    settings = {"GMEM_GENERATOR__DEFAULT_MODEL": DEFAULT, "GMEM_ENGINE__MAX_MODELS": str(MODELS)}
    with running_triton(store_url, tmp_path / "triton", **settings) as server:
        async with (
            front_end(store_url, tmp_path / "ours", backend) as ours,
            front_end(store_url, tmp_path / "tritons", TritonBackend(server.address)) as tritons,
        ):
            wanted = requests((await ours.get("/models")).json()["models"])
            together = await asyncio.gather(*(generate(tritons, request) for request in wanted * 2))
            alone = [await generate(ours, request) for request in wanted]
    assert [made["images"] for made in together] == [made["images"] for made in alone] * 2
