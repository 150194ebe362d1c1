"""Engines in this process, with no server around them, and what their thread spends."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from gmem_model.decoding import Decoder
from gmem_model.engine.engine import Engine
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.models import measure
from gmem_model.engine.runtimes import prepare
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_model.networks import build
from gmem_model.presets import preset
from gmem_shared.errors import GmemError
from gmem_shared.model_config import Architecture, ModelConfig, SnippetCondition
from gmem_shared.settings import EngineSettings
from gmem_shared.types import GeneratedImage, GenerationTask, VersionRef

MIXED_STEPS = (8, 16, 25, 50)
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class Stamp:
    """Where an engine was at one moment; differences of two are what a stretch took."""

    wall: float
    cpu: float
    evaluations: float
    rows: float

    def __sub__(self, earlier: Stamp) -> Stamp:
        return Stamp(
            self.wall - earlier.wall,
            self.cpu - earlier.cpu,
            self.evaluations - earlier.evaluations,
            self.rows - earlier.rows,
        )


class RunningEngine:
    """An engine and its metrics.

    Args:
        network: As `prepare` gives it.
        settings: The engine's.
        sampler: Of all images.
    """

    def __init__(
        self, network: GuidedNetwork, settings: EngineSettings, sampler: str = "ab2"
    ) -> None:
        self.network = network
        self.config = ModelConfig(
            architecture=network.network.architecture,
            encoder="none",
            default_bank="none",
            default_sampler=sampler,
            default_steps=8,
        )
        self._registry = CollectorRegistry()
        self.engine = Engine(
            network,
            Decoder(self.config.latent_space),
            self.config,
            VersionRef("benchmark", 1, "sha256-00"),
            settings,
            EngineMetrics(self._registry),
            measure(network, settings),
        )
        self._tasks = 0
        self.engine.start()

    def task(self, num_steps: int) -> GenerationTask:
        """Return a new task of one image."""
        self._tasks += 1
        condition = self.config.architecture.condition
        assert isinstance(condition, SnippetCondition)
        rng = np.random.default_rng(self._tasks)
        return GenerationTask(
            id=str(self._tasks),
            model="benchmark",
            snippets=rng.standard_normal((1, condition.dimension)).astype(np.float32),
            encoder="none",
            seeds=np.array([self._tasks], np.uint64),
            indices=np.zeros(1, np.int64),
            num_steps=num_steps,
        )

    def saturated(self, images: int, steps: Sequence[int], margin: int) -> Stamp:
        """Keep all places taken, and return what that took.

        Everything is submitted before the clock starts, and it stops while rows still wait.

        Args:
            images: How many the measurement takes.
            steps: Of their samplers, in turn.
            margin: Images before and after it.
        """
        watch = _Watch(self, images, margin)
        for number in range(images + 2 * margin):
            self.engine.submit(self.task(steps[number % len(steps)]), watch)
        watch.submitted.set()
        return watch.result()

    def stamp(self) -> Stamp:
        """Return where the engine is; called on its thread, whose time it takes."""
        name = "gmem_engine_evaluation_rows"
        evaluations, rows = (
            self._registry.get_sample_value(f"{name}_{part}") or 0.0 for part in ("count", "sum")
        )
        return Stamp(time.perf_counter(), time.thread_time(), evaluations, rows)

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close(drain_seconds=0)


class _Watch:
    """A listener that stamps two of the images that finish, and wakes nobody before the last."""

    def __init__(self, running: RunningEngine, images: int, margin: int) -> None:
        self.submitted = threading.Event()
        self._running = running
        self._stamped = margin, margin + images
        self._left = images + 2 * margin
        self._images = 0
        self._stamps: list[Stamp] = []
        self._error: GmemError | None = None
        self._over = threading.Event()

    def image(self, image: GeneratedImage) -> None:
        """Stamp the first and the last of the measurement."""
        self._images += 1
        if self._images in self._stamped:
            self.submitted.wait()
            self._stamps.append(self._running.stamp())

    def done(self) -> None:
        """Count a task."""
        self._left -= 1
        if not self._left:
            self._over.set()

    def failed(self, error: GmemError) -> None:
        """Remember why: a failure would make the engine look fast."""
        self._error = error
        self._over.set()

    def result(self) -> Stamp:
        """Wait for the end and return what lay between the stamps."""
        if not self._over.wait(PATIENCE_SECONDS):
            raise SystemExit("the engine did not finish")
        if self._error is not None:
            raise SystemExit(f"a task failed: {self._error.detail}")
        first, last = self._stamps
        return last - first


def random_network(architecture: Architecture) -> Network:
    """Return a network with random weights, in eval mode."""
    network = build(architecture, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # training begins with zeros, which a runtime might make use of
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    return network.eval()


def prepared(architecture: Architecture, settings: EngineSettings) -> GuidedNetwork:
    """Return a network with random weights, which cost what trained ones do, as engines want it."""
    return prepare(GuidedNetwork(random_network(architecture)), settings)


def digits(**settings: object) -> RunningEngine:
    """Return an engine of the digits network."""
    chosen = EngineSettings.model_validate(settings)
    return RunningEngine(prepared(preset("digits"), chosen), chosen)
