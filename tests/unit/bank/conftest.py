from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank
from gmem_shared.store import Store
from tests.support import banks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def opened(store: Store) -> Callable[..., BankData]:
    """Publishes a bank and opens it."""

    def open_published(**arrays: Any) -> BankData:
        version = banks.publish(store, **arrays)
        return open_bank(store.repository("banks", "digits").open(version))

    return open_published
