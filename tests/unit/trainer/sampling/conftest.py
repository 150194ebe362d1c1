"""A tiny model and bank in a store, and jobs on them that run in a moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank, write_bank
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Store
from gmem_shared.types import DEFAULT_ALIAS, ClassInfo
from gmem_trainer.sampling.job import Job
from gmem_trainer.sampling.resolve import Wishes, resolve_job
from tests.support.models import TEST_ENCODER, publish_tiny_model

DIMENSION = 64
CLASS_ROWS = (5, 1, 8)


@pytest.fixture
def place(tmp_path: Path) -> StoreSettings:
    """A store with model and bank ``tiny``."""
    place = StoreSettings(url=str(tmp_path / "store"), cache_dir=tmp_path / "cache")
    store = Store.from_settings(place)
    publish_tiny_model(store)
    publish_bank(store)
    return place


def publish_bank(store: Store, **changes: Any) -> None:
    rows = sum(CLASS_ROWS)
    arrays = {
        "vectors": np.random.default_rng(0).normal(size=(rows, DIMENSION)).astype(np.float32),
        "labels": np.repeat(np.arange(len(CLASS_ROWS)), CLASS_ROWS).astype(np.int32),
        "source_ids": np.arange(rows),
        "classes": [ClassInfo(i, f"class {i}") for i in range(len(CLASS_ROWS))],
        "encoder": TEST_ENCODER,
    }
    repository = store.repository("banks", "tiny")
    with tempfile.TemporaryDirectory() as folder:
        files, metadata = write_bank(Path(folder), **(arrays | changes))
        version = repository.publish(files, metadata=metadata)
    repository.set_alias(DEFAULT_ALIAS, version)


@pytest.fixture
def store(place: StoreSettings) -> Store:
    return Store.from_settings(place)


@pytest.fixture
def bank(store: Store) -> BankData:
    repository = store.repository("banks", "tiny")
    return open_bank(repository.open(repository.latest()))


@pytest.fixture
def make_job(store: Store) -> Callable[..., Job]:
    """Resolve a job of 10 images in batches of 4."""

    def make(**changes: Any) -> Job:
        given = {"model": "tiny", "num_images": 10, "batch_size": 4, "num_steps": 2}
        return resolve_job(store, Wishes(**(given | changes)))

    return make
