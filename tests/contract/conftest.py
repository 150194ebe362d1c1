"""One store with a model of every family; one tritonserver and one pool of engines over it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gmem_model.embedded import EmbeddedBackend
from gmem_shared.store import Store
from tests.support.backends import engine_pool
from tests.support.models import publish_families
from tests.support.redis import running_redis
from tests.support.triton import TritonServer, running_triton


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    publish_families(Store.from_url(str(folder), cache_dir=folder / "cache"))
    return str(folder)


@pytest.fixture(scope="session")
def triton(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with running_triton(store_url, tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def pool(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBackend]:
    """Two engine processes, which take seconds to start; no test starts or closes them."""
    pool = engine_pool(store_url, tmp_path_factory.mktemp("pool"))
    pool.start()
    yield EmbeddedBackend(pool)
    pool.close()
