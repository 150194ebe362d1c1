"""Images per second of the engine: 64 rows in continuous batching against one row at a time.

Both sides serve the same queue of one-image tasks with mixed step counts, with the same digits
network (random weights cost the same as trained ones) and one thread; only ``max_rows`` differs.
The baseline never waits for a client either, so the ratio is batching alone. Rounds alternate
between the sides, so that whatever else the machine does falls on both; rates per second of CPU
time hold on a busy machine, too.

Run: ``python benchmarks/engine_batching.py``; writes ``benchmarks/results/engine_batching.json``.
"""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from prometheus_client import CollectorRegistry

from gmem_model.decoding import Decoder
from gmem_model.engine.engine import Engine
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.guidance import GuidedNetwork
from gmem_model.presets import preset
from gmem_model.sit import SiT
from gmem_shared.errors import GmemError
from gmem_shared.model_config import ModelConfig
from gmem_shared.settings import EngineSettings
from gmem_shared.types import GeneratedImage, GenerationTask, VersionRef

RESULT = Path(__file__).parent / "results" / "engine_batching.json"
STEPS = (8, 16, 25, 50)
SIDES = {"one at a time": 1, "continuous, 64 rows": 64}


class Countdown:
    """A listener that tells when all tasks have ended."""

    def __init__(self, tasks: int) -> None:
        self._left = tasks
        self.over = threading.Event()

    def image(self, image: GeneratedImage) -> None:
        """Ignore the image."""

    def done(self) -> None:
        """Count one task."""
        self._left -= 1
        if self._left == 0:
            self.over.set()

    def failed(self, error: GmemError) -> None:
        """Stop the benchmark: a failure would make it look fast."""
        raise AssertionError(error.detail)


def make_engine(max_rows: int) -> Engine:
    config = ModelConfig(
        architecture=preset("digits"),
        encoder="none",
        default_bank="none",
        default_sampler="ab2",
        default_steps=8,
    )
    network = SiT(config.architecture, generator=torch.Generator().manual_seed(0)).eval()
    engine = Engine(
        GuidedNetwork(network),
        Decoder(config.latent_space),
        config,
        VersionRef("digits", 1, "sha256-00"),
        EngineSettings(max_rows=max_rows, threads=1),
        EngineMetrics(CollectorRegistry()),
    )
    engine.start()
    return engine


def measure(engine: Engine, images: int, first: int) -> tuple[float, float]:
    """Queue that many one-image tasks at once; return images per second of wall and CPU time."""
    rng = np.random.default_rng(first)
    snippets = rng.standard_normal((images, 1, 64)).astype(np.float32)
    countdown = Countdown(images)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(images):
        task = GenerationTask(
            id=str(first + number),
            model="digits",
            snippets=snippets[number],
            encoder="none",
            seeds=np.array([number], dtype=np.uint64),
            indices=np.zeros(1, dtype=np.int64),
            num_steps=STEPS[number % len(STEPS)],
        )
        engine.submit(task, countdown)
    if not countdown.over.wait(600):
        raise SystemExit("a round took more than ten minutes")
    return images / (time.perf_counter() - wall), images / (time.process_time() - cpu)


def summary(rates: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(rates), 2),
        "lowest": round(min(rates), 2),
        "highest": round(max(rates), 2),
    }


def compare(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Summarise each side, and the ratio round by round."""
    baseline, batched = rates.values()
    ratios = [fast / slow for fast, slow in zip(batched, baseline, strict=True)]
    return {side: summary(values) for side, values in rates.items()} | {"ratio": summary(ratios)}


def main(rounds: int = 5, images: int = 128, output: Path = RESULT) -> None:
    """Measure both sides in turn and print the ratio of their rates."""
    engines = {side: make_engine(max_rows) for side, max_rows in SIDES.items()}
    wall: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side, engine in engines.items():
            per_second, per_cpu_second = measure(engine, images, first=number * images)
            if number:  # the first round warms up
                wall[side].append(per_second)
                cpu[side].append(per_cpu_second)
    for engine in engines.values():
        engine.close(drain_seconds=60)
    result = {
        "images_per_second": compare(wall),
        "images_per_cpu_second": compare(cpu),
        "sampler": "ab2",
        "num_steps": STEPS,
        "images_per_round": images,
        "rounds": rounds,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
    }
    text = json.dumps(result, indent=2)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    typer.run(main)
