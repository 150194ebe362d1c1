from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from gmem_shared.store import Repository, Store


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else f"memory://{uuid4().hex}"


@pytest.fixture
def store(url: str, tmp_path: Path) -> Store:
    return Store.from_url(url, tmp_path / "cache")


@pytest.fixture
def repository(store: Store) -> Repository:
    return store.repository("banks", "digits")
