"""Versions that load, and versions that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gmem_model.engine.loader import REFUSED_SECONDS, Loader
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.pace import Pace
from gmem_model.guidance import GuidedNetwork
from gmem_shared.errors import CorruptVersionError, UnknownModelError
from gmem_shared.settings import EngineSettings
from gmem_shared.store import Store, Version
from gmem_shared.types import Reference
from tests.support.models import label_config, publish_tiny_model


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path), cache_dir=tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loader(store: Store, clock: Clock) -> Loader:
    return Loader(store, EngineSettings(), EngineMetrics(CollectorRegistry()), clock)


def weights_of(root: Path, version: Version) -> Path:
    digest = version.manifest.files["network.safetensors"].sha256
    (blob,) = root.rglob(f"*{digest}")
    blob.chmod(0o644)
    return blob


def test_a_loaded_engine_is_running(store: Store, loader: Loader) -> None:
    publish_tiny_model(store)
    engine = loader.load(loader.resolve(Reference("tiny")))
    assert engine.alive
    engine.close(drain_seconds=0)
    assert not engine.alive


def test_a_corrupt_version_is_left_alone_for_a_while_and_then_tried_again(
    store: Store, loader: Loader, clock: Clock, tmp_path: Path
) -> None:
    version = publish_tiny_model(store)
    blob = weights_of(tmp_path, version)
    sound = blob.read_bytes()
    blob.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(CorruptVersionError, match=r"network\.safetensors"):
        loader.load(version)
    blob.write_bytes(sound)
    clock.now = REFUSED_SECONDS - 1
    with pytest.raises(CorruptVersionError, match=r"network\.safetensors"):
        loader.load(version)
    clock.now = REFUSED_SECONDS + 1
    loader.load(version).close(drain_seconds=0)


def test_a_new_version_of_an_architecture_is_not_timed_again(
    store: Store, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def count(network: GuidedNetwork, settings: EngineSettings) -> Pace:
        timed.append(network.network.architecture)
        return Pace([(1, 1.0), (8, 2.0)])

    monkeypatch.setattr("gmem_model.engine.loader.measure", count)
    engines = [loader.load(publish_tiny_model(store, seed=seed)) for seed in range(2)]
    assert len(timed) == 1
    other = publish_tiny_model(store, config=label_config())
    engines.append(loader.load(other))
    assert len(timed) == 2
    for engine in engines:
        engine.close(drain_seconds=0)


def test_the_configuration_is_read_without_loading_the_network(
    store: Store, loader: Loader
) -> None:
    version = publish_tiny_model(store, encoder="some-encoder")
    assert loader.config(version).encoder == "some-encoder"
    assert loader.names() == ["tiny"]


def test_names_that_callers_invent_are_not_remembered(store: Store, loader: Loader) -> None:
    publish_tiny_model(store)
    for name in ("invented", "made-up"):
        with pytest.raises(UnknownModelError):
            loader.resolve(Reference(name))
    loader.resolve(Reference("tiny"))
    assert loader.repository("tiny") is loader.repository("tiny")
    assert loader.repository("invented") is not loader.repository("invented")
