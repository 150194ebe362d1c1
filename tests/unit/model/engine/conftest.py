"""Engines that are closed after each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from gmem_model.decoding import Decoder
from gmem_model.engine.engine import Engine
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.pace import Pace
from gmem_model.guidance import GuidedNetwork
from gmem_model.sit import SiT
from gmem_shared.model_config import ModelConfig
from gmem_shared.settings import EngineSettings
from gmem_shared.types import VersionRef
from tests.support.engine import EngineMaker
from tests.support.models import tiny_config, tiny_network


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make_engine(registry: CollectorRegistry) -> Iterator[EngineMaker]:
    engines: list[Engine] = []
    metrics = EngineMetrics(registry)

    def make(
        network: SiT | None = None, config: ModelConfig | None = None, **settings: Any
    ) -> Engine:
        config = config or tiny_config()
        engine = Engine(
            GuidedNetwork.of(network or tiny_network(config), config.guidance),
            Decoder(config.latent_space),
            config,
            VersionRef("tiny", 1, "sha256-00"),
            EngineSettings(**settings),
            metrics,
            Pace(),
        )
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close(drain_seconds=0)


@pytest.fixture
def as_the_engine_runs() -> Iterator[None]:
    """One thread, and no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)
