"""Images per second of the engine: 64 rows in continuous batching against one row at a time.

Both sides serve the same queue of one-image tasks with mixed step counts, with the same digits
network (random weights cost the same as trained ones) and one thread; only ``max_rows`` differs.
The baseline never waits for a client either, so the ratio is batching alone. Rounds alternate
between the sides, so that whatever else the machine does falls on both.

Run: ``python benchmarks/engine_batching.py``; writes ``benchmarks/results/engine_batching.json``.
"""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import torch
import typer
from prometheus_client import CollectorRegistry

from gmem_model.engine.engine import Engine
from gmem_model.engine.metrics import EngineMetrics
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
        network,
        config,
        VersionRef("digits", 1, "sha256-00"),
        EngineSettings(max_rows=max_rows, threads=1),
        EngineMetrics(CollectorRegistry()),
    )
    engine.start()
    return engine


def images_per_second(engine: Engine, images: int, first: int) -> float:
    """Queue that many one-image tasks at once and time them until the last ends."""
    rng = np.random.default_rng(first)
    snippets = rng.standard_normal((images, 1, 64)).astype(np.float32)
    countdown = Countdown(images)
    started = time.perf_counter()
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
    return images / (time.perf_counter() - started)


def summary(rates: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(rates), 2),
        "lowest": round(min(rates), 2),
        "highest": round(max(rates), 2),
    }


def main(rounds: int = 5, images: int = 128, output: Path = RESULT) -> None:
    """Measure both sides in turn and print the ratio of their medians."""
    engines = {side: make_engine(max_rows) for side, max_rows in SIDES.items()}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side, engine in engines.items():
            rate = images_per_second(engine, images, first=number * images)
            if number:  # the first round warms up
                rates[side].append(rate)
    for engine in engines.values():
        engine.close(drain_seconds=60)
    baseline, batched = rates.values()
    ratios = [fast / slow for fast, slow in zip(batched, baseline, strict=True)]
    result = {
        "images_per_second": {side: summary(values) for side, values in rates.items()},
        "ratio": summary(ratios),
        "sampler": "ab2",
        "num_steps": STEPS,
        "images_per_round": images,
        "rounds": rounds,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
