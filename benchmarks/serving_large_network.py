"""Latency where batching cannot pay: a network of SiT-S/2's size on one CPU core.

Its evaluation takes as long per row for one row as for many, so no policy beats first come, first
served; one that shares the core among many rows delays them all. The scheduler has to notice, by
its fit of the time of an evaluation to its rows, and to run few rows at once.

Run: ``python -m benchmarks.serving_large_network [--quick]``; 10 minutes, 1 when quick.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
import typer

from benchmarks.harness import systems
from benchmarks.harness.comparison import Bench, Load
from benchmarks.harness.report import Claim, Result, save
from benchmarks.harness.servers import pin_client, serving
from benchmarks.harness.workload import Mix
from gmem_model.checkpoint import save_network
from gmem_model.networks import build
from gmem_model.presets import preset
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import Store

OURS, _, FIXED, SINGLE = systems.PRODUCT
SHARE = 0.8
STORE = systems.WORK / "large-network"
FEW_STEPS = Mix("1/2/4 steps", (1, 2, 4))

SETTING = (
    "A network of SiT-S/2's size (12 layers, width 384, 256 tokens) with random weights on pixels, "
    f"one core. *{SINGLE}* is first come, first served. Latency counts from the scheduled arrival."
)


def main(quick: bool = False, repetitions: int = 5, seconds: float = 40.0) -> None:
    """Measure; the quick run is too short to tell."""
    publish(STORE)
    if quick:
        repetitions, seconds = 3, 3.0
    settings = {"STORE__URL": str(STORE), "GENERATOR__DEFAULT_MODEL": "large@production"}
    sides = [systems.product(side, systems.PRODUCT[side], **settings) for side in (OURS, SINGLE)]
    pin_client()
    with ExitStack() as stack:
        servers = {side.name: stack.enter_context(serving(side)) for side in sides}
        bench = Bench(servers, repetitions, seconds, clients=4)
        capacity = statistics.median(bench.saturate(FEW_STEPS, [SINGLE])[SINGLE])
        load = Load(FEW_STEPS, SHARE * capacity, SHARE, SINGLE)
        comparison = bench.compare(load, (OURS, SINGLE))
    result = Result(
        name="serving_large_network",
        title="Where batching cannot pay",
        setting=SETTING,
        claims=[
            Claim(
                "p95 against first come, first served",
                comparison.ratios(OURS, SINGLE, "p95"),
                "at most",
                1.05,
            )
        ],
        tables=[comparison.table()],
        raw=[comparison.raw()],
    )
    save(result, systems.results(quick=quick))


def publish(folder: Path) -> None:
    """Make a store that holds nothing but the untrained network."""
    shutil.rmtree(folder, ignore_errors=True)
    architecture = preset("SiT-S/2").model_copy(update={"in_channels": 3})
    config = ModelConfig(architecture=architecture, default_sampler="ab2", default_steps=4)
    network = build(architecture, generator=torch.Generator().manual_seed(0))
    store = Store.from_url(str(folder), cache_dir=systems.WORK / "cache")
    repository = store.repository("models", "large")
    with tempfile.TemporaryDirectory() as made:
        weights = Path(made) / "network.safetensors"
        save_network(weights, network)
        version = repository.publish(
            {weights.name: weights, "config.json": config.model_dump_json().encode()}
        )
    repository.set_alias("production", version, reason="benchmark")


if __name__ == "__main__":
    typer.run(main)
