"""One trained digits store, and one running stack of each kind, for all end-to-end tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.digits import trained_store
from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the trained digits bank and model; tests that change it take a copy."""
    return trained_store(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def own_store(digits_store: Path, tmp_path: Path) -> Path:
    """A copy of the trained store that the test may change."""
    return Path(shutil.copytree(digits_store, tmp_path / "store"))


@pytest.fixture(scope="session")
def embedded(digits_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("embedded")
    with running_stack(str(digits_store), directory, embedded=True) as stack:
        yield stack


@pytest.fixture(scope="session")
def distributed(digits_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("distributed")
    with running_stack(str(digits_store), directory, embedded=False) as stack:
        yield stack


BOTH = [
    pytest.param("embedded", id="embedded"),
    pytest.param("distributed", id="distributed", marks=pytest.mark.triton),
]


@pytest.fixture(params=BOTH)
def stack(request: pytest.FixtureRequest) -> Stack:
    """The embedded and the distributed product, one after the other."""
    running: Stack = request.getfixturevalue(request.param)
    return running
