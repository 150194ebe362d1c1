"""What the engine adds to the network: evaluations per second of both, at full rows.

The engine is kept full by one-image tasks of mixed steps: about three rows come and three images go
with each evaluation. The bare side calls the same prepared network on the same number of rows in a
loop. One thread each, in turn. Processor time holds on a busy machine, too, and decides.

Run: ``python -m benchmarks.engine_efficiency [--quick]``.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import typer

from benchmarks.harness.engines import MIXED_STEPS, RunningEngine, Stamp, digits
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.report import Claim, Result, Table, save
from gmem_model.engine.batching import Continuous
from gmem_model.engine.onnx_network import Array, OnnxNetwork
from gmem_model.engine.pace import Pace
from gmem_model.engine.scheduler import Scheduler
from gmem_model.engine.task import Task
from gmem_model.network import Network

ROWS = 64

SETTING = (
    f"The digits network on ONNX Runtime, one thread, {ROWS} rows, one-image tasks of "
    f"{'/'.join(map(str, MIXED_STEPS))} steps (AB2). *Bare* calls the network on {ROWS} rows in a "
    "loop; *scheduler* submits, admits and advances the same tasks with no network."
)


@dataclass
class Spent:
    """Processor time inside a network, and how often it was called."""

    seconds: float = 0.0
    calls: int = 0
    marks: list[float] = field(default_factory=list)

    def timed(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Return the function, its time counted here."""

        def call(*inputs: Array) -> Array:
            started = time.thread_time()
            output = function(*inputs)
            self.seconds += time.thread_time() - started
            self.calls += 1
            return output

        return call


def bare(network: Network, evaluations: int) -> Stamp:
    """Call the network in a loop."""
    condition = torch.randn(ROWS, *network.no_condition(1).shape[1:])
    x, t = torch.randn(ROWS, *network.latent_shape), torch.rand(ROWS)
    wall, cpu = time.perf_counter(), time.thread_time()
    with torch.inference_mode():
        for _ in range(evaluations):
            network(x, t, condition)
    return Stamp(
        time.perf_counter() - wall, time.thread_time() - cpu, evaluations, evaluations * ROWS
    )


def scheduler_alone(evaluations: int) -> float:
    """Return the scheduler's processor seconds per evaluation at full rows."""
    scheduler: Scheduler[None] = Scheduler(Continuous(ROWS), 1 << 20, Pace([(ROWS, 1.0)]))
    waiting = deque(
        Task(str(n), 1, MIXED_STEPS[n % len(MIXED_STEPS)], None)
        for n in range(ROWS * (1 + evaluations // min(MIXED_STEPS)))
    )
    started = time.thread_time()
    for evaluation in range(evaluations):
        while scheduler.waiting_rows + scheduler.running_rows < 2 * ROWS:
            scheduler.submit(waiting.popleft(), float(evaluation))
        scheduler.expire(float(evaluation))
        scheduler.admit(float(evaluation))
        scheduler.advance(scheduler.running_rows, 1.0)
    return (time.thread_time() - started) / evaluations


def main(quick: bool = False, repetitions: int = 9, images: int = 4096) -> None:
    """Measure; the quick run is too short to tell."""
    if quick:
        repetitions, images = 3, 512
    torch.set_num_threads(1)
    running = digits(max_rows=ROWS)
    network = running.network.network
    evaluations = images * sum(MIXED_STEPS) // len(MIXED_STEPS) // ROWS
    sides = {
        "engine": lambda _: running.saturated(images, MIXED_STEPS, margin=2 * ROWS),
        "bare": lambda _: bare(network, evaluations),
    }
    measured = interleaved(sides, repetitions)
    scheduler = [scheduler_alone(evaluations) for _ in range(repetitions)]
    inside = seconds_inside(running, images)
    running.close()
    save(result(measured, scheduler, inside))


def seconds_inside(running: RunningEngine, images: int) -> float:
    """Return the processor seconds per evaluation that the engine spends inside the network."""
    network, spent = running.network.network, Spent()
    assert isinstance(network, OnnxNetwork)
    network.forward_arrays = spent.timed(network.forward_arrays)  # type: ignore[method-assign]
    network.core_arrays = spent.timed(network.core_arrays)  # type: ignore[method-assign]
    running.saturated(images, MIXED_STEPS, margin=2 * ROWS)
    return spent.seconds / spent.calls


def result(measured: dict[str, list[Stamp]], scheduler: list[float], inside: float) -> Result:
    """Return claims and table."""

    def rates(side: str, clock: str) -> list[float]:
        return [stamp.rows / getattr(stamp, clock) for stamp in measured[side]]

    def efficiency(clock: str) -> list[float]:
        return ratios(rates("engine", clock), rates("bare", clock))

    bare_seconds = [stamp.cpu / stamp.evaluations for stamp in measured["bare"]]
    engine_seconds = statistics.median(s.cpu / s.evaluations for s in measured["engine"])
    rows = statistics.median(stamp.rows / stamp.evaluations for stamp in measured["engine"])
    table = [
        ["bare network", 1e6 * statistics.median(bare_seconds)],
        ["engine", 1e6 * engine_seconds],
        ["… inside the network", 1e6 * inside],
        ["… the scheduler", 1e6 * statistics.median(scheduler)],
        ["rows of an evaluation in the engine", rows],
    ]
    return Result(
        name="engine_efficiency",
        title="What the engine adds to the network",
        setting=SETTING,
        claims=[
            Claim(
                "rows per processor second, engine / bare network",
                efficiency("cpu"), "at least", 0.95,
            ),
            Claim("rows per second, engine / bare network", efficiency("wall"), "at least", 0.95),
            Claim(
                f"scheduler / evaluation of {ROWS} rows", ratios(scheduler, bare_seconds),
                "at most", 0.02,
            ),
        ],
        tables=[Table("Processor time per evaluation, µs", ["", "median"], table)],
        raw={"measured": measured, "scheduler_seconds": scheduler},
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
