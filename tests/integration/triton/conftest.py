"""A store with a tiny model, and a real tritonserver over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gmem_generator.triton_backend import TritonBackend
from gmem_shared.store import Store
from tests.support.backends import is_ready, until
from tests.support.models import publish_tiny_model
from tests.support.triton import TritonServer, client, running_triton


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def store(store_url: str) -> Store:
    store = Store.from_url(store_url, cache_dir=Path(store_url) / "cache")
    publish_tiny_model(store)
    return store


@pytest.fixture(scope="module")
def server(
    store_url: str, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with running_triton(store_url, tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture
async def backend(server: TritonServer) -> AsyncIterator[TritonBackend]:
    async with client(server, heartbeat_seconds=1.0) as backend:
        await until(lambda: is_ready(backend))
        yield backend
