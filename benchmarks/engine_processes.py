"""The engine on all cores: a process per core, against one process with one thread or with all.

Three engines hold the same digits network and serve the same tasks without HTTP, in turn. Queued
all at once, tasks of one image and mixed steps give the throughput; sent one after the other they
give what a task pays for the way to another process and back, and what a large task gains by being
divided.

Run: ``python -m benchmarks.engine_processes [--quick]``.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from prometheus_client import CollectorRegistry

from benchmarks.harness import systems
from benchmarks.harness.interleave import Spread, interleaved, ratios
from benchmarks.harness.report import Claim, Result, Table, save
from gmem_model.engine.cores import usable_cores
from gmem_model.engine.opening import open_engine
from gmem_shared.errors import GmemError, NotReadyError
from gmem_shared.settings import Settings
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo

if TYPE_CHECKING:
    from gmem_model.engine.host import EngineHost
    from gmem_model.engine.pool.pool import EnginePool

    Engine = EngineHost | EnginePool

STEPS = (8, 16, 25, 50)
ONE, THREADS, PROCESSES = "one process", "one process, a thread per core", "a process per core"
LARGE = 64
START_SECONDS = 120.0
PATIENCE_SECONDS = 600.0

Measure = Callable[["Engine"], float]

_ids = itertools.count()


class Countdown:
    """A listener that tells when that many tasks have ended."""

    def __init__(self, tasks: int) -> None:
        self._left = tasks
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._error: GmemError | None = None

    def image(self, image: GeneratedImage) -> None:
        """Ignore the image."""

    def done(self) -> None:
        """Count one task."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._over.set()

    def failed(self, error: GmemError) -> None:
        """End the wait: a failure would make an engine look fast."""
        self._error = error
        self._over.set()

    def wait(self) -> None:
        """Wait for the last task."""
        assert self._over.wait(PATIENCE_SECONDS), "the tasks did not end"
        assert self._error is None, self._error.detail


@contextmanager
def running(processes: int, threads: int) -> Iterator[Engine]:
    """An engine as ``GMEM_ENGINE__*`` would choose it, ready."""
    settings = Settings(
        store={"url": str(systems.STORE), "cache_dir": Path(systems.WORK) / "cache"},
        engine={"processes": processes, "threads": threads, "device": "cpu"},
        log={"level": "ERROR"},
    )
    engine = open_engine(settings, CollectorRegistry())
    engine.start()
    try:
        end = time.monotonic() + START_SECONDS
        while not _is_ready(engine):
            assert time.monotonic() < end, "the engine did not start"
            time.sleep(0.05)
        time.sleep(2.0)  # for the other processes
        yield engine
    finally:
        engine.close()


def make_task(model: ModelInfo, images: int, steps: int) -> GenerationTask:
    number = next(_ids)
    snippets = np.random.default_rng(number).standard_normal((images, model.snippet_dimension or 1))
    return GenerationTask(
        id=str(number),
        model=f"{model.version.name}@{model.version.digest}",
        snippets=snippets.astype(np.float32),
        encoder=model.encoder,
        seeds=np.full(images, number, dtype=np.uint64),
        indices=np.arange(images, dtype=np.int64),
        sampler="ab2",
        num_steps=steps,
    )


def send(engine: Engine, task: GenerationTask, listener: Countdown) -> None:
    if not engine.offer(task, listener):
        engine.submit(task, listener)


def throughput(engine: Engine, images: int) -> float:
    """Return images per second of a queue of one-image tasks."""
    model = engine.describe("digits")
    tasks = [make_task(model, 1, STEPS[number % len(STEPS)]) for number in range(images)]
    countdown = Countdown(images)
    started = time.perf_counter()
    for task in tasks:
        send(engine, task, countdown)
    countdown.wait()
    return images / (time.perf_counter() - started)


def latency(engine: Engine, images: int, tasks: int) -> float:
    """Return the median milliseconds of a task of that many images, alone in the engine."""
    model = engine.describe("digits")
    times = []
    for _ in range(tasks):
        task, countdown = make_task(model, images, STEPS[0]), Countdown(1)
        started = time.perf_counter()
        send(engine, task, countdown)
        countdown.wait()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def measured(
    engines: Mapping[str, Engine], measure: Measure, repetitions: int
) -> dict[str, list[float]]:
    """Measure all engines in turn."""
    sides = {name: lambda _, engine=engine: measure(engine) for name, engine in engines.items()}
    return interleaved(sides, repetitions)


def main(quick: bool = False, repetitions: int = 5, images: int = 2048, tasks: int = 200) -> None:
    """Measure; the quick run has fewer images and tasks."""
    systems.prepare()
    if quick:
        images, tasks = 512, 50
    cores = usable_cores()
    assert cores > 1, "expected two cores or more: one core has one engine"
    chosen = {ONE: (1, 1), THREADS: (1, cores), PROCESSES: (cores, 1)}
    with ExitStack() as stack:
        engines = {name: stack.enter_context(running(*counts)) for name, counts in chosen.items()}
        saturated = measured(engines, lambda engine: throughput(engine, images), repetitions)
        small = measured(engines, lambda engine: latency(engine, 1, tasks), repetitions)
        large = measured(engines, lambda engine: latency(engine, LARGE, tasks // 5), repetitions)
    save(_result(cores, saturated, small, large), systems.results(quick=quick))


def _result(
    cores: int,
    saturated: Mapping[str, Sequence[float]],
    small: Mapping[str, Sequence[float]],
    large: Mapping[str, Sequence[float]],
) -> Result:
    added = [many - one for many, one in zip(small[PROCESSES], small[ONE], strict=True)]
    throughputs = {"": (ONE, 0.9 * cores), " with as many threads": (THREADS, 1.2)}
    claims = [
        Claim(
            f"saturated: images/s of {cores} processes against one{suffix}",
            ratios(saturated[PROCESSES], saturated[side]),
            "at least",
            goal,
        )
        for suffix, (side, goal) in throughputs.items()
    ]
    claims += [
        Claim("one image: ms added by the way to another process", added, "at most", 0.15),
        Claim(
            f"{LARGE} images: time against one process",
            ratios(large[PROCESSES], large[ONE]),
            "at most",
            1.2 / cores,
        ),
    ]
    rows = [
        [side, *(str(Spread.of(values[side])) for values in (saturated, small, large))]
        for side in (ONE, THREADS, PROCESSES)
    ]
    columns = ["engine", "images/s, saturated", "1 image, ms", f"{LARGE} images, ms"]
    return Result(
        name="engine_processes",
        title="A process per core",
        setting=(
            f"Digits network, two-step Adams-Bashforth, {cores} cores, no HTTP. Saturated: "
            f"one-image tasks of {', '.join(map(str, STEPS))} steps, queued at once. Alone: one "
            f"task of {STEPS[0]} steps after the other, with 1 and with {LARGE} images."
        ),
        claims=claims,
        tables=[Table("Throughput and latency", columns, rows)],
        raw={"images_per_second": saturated, "ms_1_image": small, f"ms_{LARGE}_images": large},
    )


def _is_ready(engine: Engine) -> bool:
    try:
        engine.check()
    except NotReadyError:
        return False
    return True


if __name__ == "__main__":
    typer.run(main)
