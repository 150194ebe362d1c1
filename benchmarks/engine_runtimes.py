"""What evaluates a network fastest on one CPU core: the evidence for `runtimes.choose`.

Eager, scripted and compiled PyTorch, and ONNX Runtime with modulation prepared and fused, on the
digits network and on one of SiT-S/2's size; how long each takes to start; and what bit-identical
images cost PyTorch (ONNX Runtime gives them for nothing).

Run: ``python -m benchmarks.engine_runtimes [--quick]``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import typer
from torch import Tensor

from benchmarks.harness.engines import random_network
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.report import Claim, Result, Table, save
from gmem_model.engine.runtimes import prepare
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_model.presets import preset
from gmem_shared.model_config import Architecture
from gmem_shared.settings import EngineSettings

SIDES = ("eager", "scripted", "compiled", "onnx", "onnx, fused")
NETWORKS = {"digits": ("digits", (1, 4, 16, 64)), "SiT-S/2": ("GMem-SiT-S/2", (1, 4))}
STRICT_KERNELS = "MKL_CBWR"

SETTING = (
    "One thread, random weights, processor time of one evaluation under prepared modulations; "
    "*fused* computes them with it. Starting includes the first evaluations of one and of two rows."
)

Evaluate = Callable[[int], float]


@dataclass(frozen=True)
class Side:
    """A started runtime: seconds per evaluation, by rows; and what starting took."""

    evaluate: Evaluate
    start_seconds: float


def started(name: str, architecture: Architecture, seconds: float) -> Side:
    """Start a runtime, whose measurements take about so many seconds."""
    network = random_network(architecture)
    begin = time.perf_counter()
    runtime = name.partition(",")[0]
    settings = EngineSettings.model_validate({"device": "cpu", "runtime": runtime})
    prepared = prepare(GuidedNetwork(network), settings).network
    call = fused if name.endswith("fused") else core
    for rows in (1, 2):
        call(prepared, rows)()
    start_seconds = time.perf_counter() - begin
    return Side(lambda rows: per_call(call(prepared, rows), seconds), start_seconds)


def core(network: Network, rows: int) -> Callable[[], Tensor]:
    """Return an evaluation of so many rows under prepared modulations."""
    x, modulation = (
        torch.randn(rows, *network.latent_shape),
        torch.randn(rows, network.modulation_width),
    )
    return partial(network.core, x, modulation)


def fused(network: Network, rows: int) -> Callable[[], Tensor]:
    """Return an evaluation of so many rows that prepares nothing."""
    condition = torch.randn(rows, *network.no_condition(1).shape[1:])
    return partial(network, torch.randn(rows, *network.latent_shape), torch.rand(rows), condition)


def per_call(call: Callable[[], Tensor], seconds: float) -> float:
    """Return processor seconds of a call, of many that take about so many seconds."""
    calls, begin = 0, time.thread_time()
    with torch.inference_mode():
        while (spent := time.thread_time() - begin) < seconds or not calls:
            call()
            calls += 1
    return spent / calls


def compare(name: str, repetitions: int, seconds: float) -> tuple[Table, dict[str, object]]:
    """Measure all runtimes of one network."""
    preset_name, row_counts = NETWORKS[name]
    sides = {side: started(side, preset(preset_name), seconds) for side in SIDES}
    measured: dict[int, dict[str, list[float]]] = {
        rows: interleaved(
            {side: lambda _, s=sides[side], n=rows: s.evaluate(n) for side in SIDES},  # type: ignore[misc]
            repetitions,
        )
        for rows in row_counts
    }
    lines: list[list[str | float]] = [
        [
            side,
            *(1000 * statistics.median(measured[rows][side]) for rows in row_counts),
            sides[side].start_seconds,
        ]
        for side in SIDES
    ]
    columns = ["", *(f"{rows} rows" for rows in row_counts), "start, s"]
    raw = {"evaluation_seconds": measured, "start": {k: v.start_seconds for k, v in sides.items()}}
    return Table(f"{name}: ms of an evaluation", columns, lines), raw


def eager_seconds(strict: bool, seconds: float) -> float:
    """Return the eager digits network's seconds at 16 rows, in a process of its own.

    MKL reads which kernels it may use at its first product and never again.
    """
    environment = os.environ | {STRICT_KERNELS: "AUTO,STRICT" if strict else "AUTO"}
    command = [sys.executable, "-m", "benchmarks.engine_runtimes", "--eager-seconds", str(seconds)]
    return float(subprocess.check_output(command, env=environment, text=True))


def main(
    quick: bool = False,
    repetitions: int = 7,
    seconds: float = 0.5,
    eager: float | None = typer.Option(None, "--eager-seconds", hidden=True),
) -> None:
    """Measure; the quick run leaves the large network out, whose compilation takes minutes."""
    torch.set_num_threads(1)
    if eager is not None:
        print(started("eager", preset("digits"), eager).evaluate(16))
        return
    if quick:
        repetitions, seconds = 3, 0.05
    tables, raw = [], {}
    for name in ("digits",) if quick else NETWORKS:
        table, raw[name] = compare(name, repetitions, seconds)
        tables.append(table)
    kernels = interleaved(
        {strict: lambda _, s=strict: eager_seconds(s, seconds) for strict in (True, False)},  # type: ignore[misc]
        repetitions,
    )
    digits: dict[int, dict[str, list[float]]] = raw["digits"]["evaluation_seconds"]  # type: ignore[assignment,index]
    save(
        Result(
            name="engine_runtimes",
            title="What evaluates a network fastest on a CPU",
            setting=SETTING,
            claims=[
                Claim(
                    "digits, 1 row: onnx / eager",
                    ratios(digits[1]["onnx"], digits[1]["eager"]),
                    "at most",
                    0.5,
                ),
                Claim(
                    "digits, 64 rows: onnx, fused / eager",
                    ratios(digits[64]["onnx, fused"], digits[64]["eager"]),
                    "at most",
                    1.0,
                ),
                Claim(
                    "digits, 16 rows, eager: strict kernels / any",
                    ratios(kernels[True], kernels[False]),
                    "at most",
                    1.1,
                ),
            ],
            tables=tables,
            raw=raw | {"strict": kernels[True], "any": kernels[False]},
        )
    )


if __name__ == "__main__":
    typer.run(main)
