"""The engine on one GPU, against the bare network and against the sampling loop GMem published.

Random weights of SiT-XL/2 on 4 x 32 x 32 latents cost what trained ones do. One command, under
eight minutes on an H100: ``python -m benchmarks.gpu``. To try it without a GPU:
``python -m benchmarks.gpu --device cpu --preset tiny --quick``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import typer

from benchmarks.harness.arrivals import poisson
from benchmarks.harness.engines import MIXED_STEPS, RunningEngine, prepared, random_network
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.report import Claim, Result, Table, environment, save
from gmem_model.engine.graphs import Graphs
from gmem_model.engine.rows import Rows
from gmem_model.engine.runtimes import device_of, examples
from gmem_model.engine.windows import RowSpec
from gmem_model.guidance import GuidedNetwork
from gmem_model.presets import preset
from gmem_model.samplers import plan
from gmem_model.transformer import Transformer
from gmem_shared.errors import GmemError
from gmem_shared.model_config import Interpolant, SiTArchitecture, SnippetCondition
from gmem_shared.settings import EngineSettings
from gmem_shared.types import GeneratedImage

EVALUATIONS = 100
"""Of one image: Euler-Maruyama with so many steps."""

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 FLOP/s of data sheets; of other devices, a large product is timed."""

TINY = SiTArchitecture(
    input_size=8, patch_size=2, in_channels=4, hidden_size=64, depth=2, num_heads=4,
    condition=SnippetCondition(dimension=32), projector_outputs=(),
)  # fmt: skip

SETTING = (
    f"Images are of {EVALUATIONS} evaluations (Euler-Maruyama) unless said. *Bare* calls the "
    "prepared network's core in a loop. *Published loop*: the network in float32 with TF32, eager, "
    "one call per evaluation (the original makes two where it is an SDE), noise of the whole batch "
    "from the CPU's generator and one copy to the device at every step. *Continuous* and *dynamic* "
    f"see the same Poisson arrivals of one-image requests of {'/'.join(map(str, MIXED_STEPS))} "
    "steps, at 80 % of what *dynamic* can do."
)


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what.

    Attributes:
        networks: Prepared: compiled and in bf16 on a GPU.
        settings: Of its engines.
        repetitions: Of every comparison.
        seconds: Length of an open loop.
        images: Of a saturated engine, in full batches.
    """

    networks: GuidedNetwork
    settings: EngineSettings
    repetitions: int
    seconds: float
    images: int

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.networks.network.device

    @property
    def rows(self) -> int:
        """Of a full evaluation."""
        return self.settings.max_rows

    def engine(self, sampler: str, **changes: object) -> RunningEngine:
        """Return an engine with changed settings."""
        settings = EngineSettings.model_validate(self.settings.model_dump() | changes)
        return RunningEngine(self.networks, settings, sampler)

    def bare(self, evaluations: int) -> float:
        """Return rows per second of the network called in a loop."""
        latents, modulation = examples(self.networks.network, self.rows)
        output = torch.empty_like(latents)
        graphs = Graphs(self.rows, record=self.device.type == "cuda")

        def evaluate() -> None:
            output.copy_(self.networks.network.core(latents, modulation))

        return self._rate(lambda: graphs.run("bare", evaluate, [output]), self.rows, evaluations)

    def stepped(
        self, rows: int, evaluations: int, *, graphs: bool = True, strict: bool = False
    ) -> Callable[[int], float]:
        """Return what measures rows per second of `Rows` alone, with no scheduler."""
        record = self.device.type == "cuda"
        state = Rows(
            self.networks,
            Interpolant(),
            self.rows,
            modulation_bytes=self.settings.modulation_bytes,
            graphs=Graphs(self.rows, strict=strict, record=record) if graphs else None,
        )
        table = plan("euler-maruyama", (self.repetitions + 2) * (evaluations + 2), Interpolant())
        condition = self.networks.network.no_condition(1)[0].numpy()
        with torch.inference_mode():
            state.join([RowSpec(table, condition, seed, 0) for seed in range(rows)])
        return lambda _: self._rate(state.step, rows, evaluations)

    def saturated(self, running: RunningEngine, steps: Sequence[int]) -> float:
        """Return rows per second of an engine whose places are all taken."""
        stretch = running.saturated(self.images, steps, margin=self.rows)
        return stretch.rows / stretch.wall

    def published(self, network: Transformer, evaluations: int) -> float:
        """Return rows per second of GMem's sampling loop."""
        shape = self.rows, *network.latent_shape
        x = torch.randn(shape).to(self.device)
        snippets = torch.randn(self.rows, *network.no_condition(1).shape[1:]).to(self.device)
        times = iter(np.linspace(0, 0.996, evaluations + 3).tolist())

        def step() -> None:
            nonlocal x
            t, dt = next(times), 1 / evaluations
            noise = torch.randn(shape).to(self.device)
            velocity = network.fused(x, torch.full((self.rows,), t, device=self.device), snippets)
            score = (t * velocity - x) / (1 - t)
            x = x + (velocity + (1 - t) * score) * dt + (2 * (1 - t) * dt) ** 0.5 * noise

        return self._rate(step, self.rows, evaluations)

    def _rate(self, evaluate: Callable[[], None], rows: int, evaluations: int) -> float:
        with torch.inference_mode():
            for _ in range(2):
                evaluate()
            self._finish()
            started = time.perf_counter()
            for _ in range(evaluations):
                evaluate()
            self._finish()
        return rows * evaluations / (time.perf_counter() - started)

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Latency:
    """A listener that notes when its task ended."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.seconds = 0.0
        self.over = threading.Event()

    def image(self, image: GeneratedImage) -> None:
        """Ignore the image."""

    def done(self) -> None:
        """Note the time."""
        self.seconds = time.monotonic() - self.due
        self.over.set()

    def failed(self, error: GmemError) -> None:
        """Stop: a failure would make the engine look fast."""
        raise SystemExit(error.detail)


def open_loop(running: RunningEngine, rate: float, seconds: float, seed: int) -> list[float]:
    """Submit one-image tasks when they arrive; return their latencies in seconds."""
    rng = np.random.default_rng(seed)
    times = poisson(rate, seconds, rng)
    tasks = [running.task(int(steps)) for steps in rng.choice(MIXED_STEPS, len(times))]
    start = time.monotonic() + 0.1
    listeners = [Latency(start + arrival) for arrival in times]
    for task, listener in zip(tasks, listeners, strict=True):
        time.sleep(max(0.0, listener.due - time.monotonic()))
        running.engine.submit(task, listener)
    for listener in listeners:
        listener.over.wait()
    return [listener.seconds for listener in listeners]


def flops(a: SiTArchitecture) -> float:
    """Return the floating point operations of one row's core; a product's terms count twice."""
    tokens, width = (a.input_size // a.patch_size) ** 2, a.hidden_size
    patch = a.patch_size**2 * a.in_channels
    layers = (4 + 2 * a.mlp_ratio) * width**2
    return 2 * tokens * (a.depth * (layers + 2 * tokens * width) + 2 * patch * width)


def peak(device: torch.device) -> tuple[str, float]:
    """Return the device's name and FLOP/s."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for model, known in PEAKS.items():
            if model in name.split("-")[0].split():
                return name, known
    else:
        name = "CPU, one thread"
    return f"{name} (measured)", measured_peak(device)


def measured_peak(device: torch.device) -> float:
    """Return the best FLOP/s of a large product."""
    on_gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the product
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


def main(
    device: str = "auto", preset_name: str = typer.Option("GMem-SiT-XL/2", "--preset"),
    rows: int = 64, repetitions: int = 5, quick: bool = False,
) -> None:  # fmt: skip
    """Measure; the quick run is too short to tell."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    settings = EngineSettings(device=device, max_rows=rows)
    place = device_of(settings)
    if quick and place.type == "cpu" and preset_name != "tiny":
        raise SystemExit("expected a GPU, found none; try it with --device cpu --preset tiny")
    if quick:
        repetitions = 2
    architecture = TINY if preset_name == "tiny" else preset(preset_name)
    assert isinstance(architecture, SiTArchitecture)
    bench = Bench(
        prepared(architecture, settings), settings, repetitions,
        seconds=2.0 if quick else 12.0, images=(1 if quick else 3) * rows,
    )  # fmt: skip
    name, peak_flops = peak(place)
    throughput = throughputs(bench, architecture, evaluations=10 if quick else 60)
    latencies, capacity = policies(bench)
    results = {side: np.array(rates) for side, rates in throughput.items()}
    utilisation = {
        side: rates * flops(architecture) / peak_flops for side, rates in results.items()
    }
    save(
        Result(
            name="gpu",
            title=f"{preset_name} on {name}",
            setting=SETTING,
            claims=claims(throughput, utilisation, latencies, capacity),
            tables=[throughput_table(results, utilisation), latency_table(latencies)],
            raw={
                "rows_per_second": throughput,
                "latency_seconds": latencies,
                "capacity_rows_per_second": capacity,
                "flops_per_row": flops(architecture),
                "peak_flops": peak_flops,
            },
            environment=environment() | {"device": name},
        )
    )


def throughputs(
    bench: Bench, architecture: SiTArchitecture, evaluations: int
) -> dict[str, list[float]]:
    """Return rows per second of every side and repetition."""
    part = max(1, bench.rows * 3 // 8)
    original = random_network(architecture).to(bench.device)
    assert isinstance(original, Transformer)
    running = bench.engine("euler-maruyama")
    try:
        return interleaved(
            {
                "bare": lambda _: bench.bare(evaluations),
                "engine": lambda _: bench.saturated(running, [EVALUATIONS]),
                "published loop": lambda _: bench.published(original, evaluations),
                "rows, graphs": bench.stepped(bench.rows, evaluations),
                "rows, no graphs": bench.stepped(bench.rows, evaluations, graphs=False),
                f"{part} rows": bench.stepped(part, evaluations),
                f"{part} rows, strict": bench.stepped(part, evaluations, strict=True),
            },
            bench.repetitions,
        )
    finally:
        running.close()


def policies(bench: Bench) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Return latencies under a load, and rows per second at saturation, of two ways to batch."""
    engines = {side: bench.engine("ab2", batching=side) for side in ("continuous", "dynamic")}
    try:
        capacity = interleaved(
            {s: lambda _, e=e: bench.saturated(e, MIXED_STEPS) for s, e in engines.items()},  # type: ignore[misc]
            bench.repetitions,
        )
        # A padded batch spends evaluations on rows that are finished: images count, not rows.
        padded = float(np.median(capacity["dynamic"])) / max(MIXED_STEPS)
        latencies = interleaved(
            {
                s: lambda k, e=e: open_loop(e, 0.8 * padded, bench.seconds, seed=k + 1)  # type: ignore[misc]
                for s, e in engines.items()
            },
            bench.repetitions,
        )
    finally:
        for engine in engines.values():
            engine.close()
    return latencies, capacity


def claims(
    throughput: Mapping[str, Sequence[float]],
    utilisation: Mapping[str, np.ndarray],
    latencies: Mapping[str, Sequence[Sequence[float]]],
    capacity: Mapping[str, Sequence[float]],
) -> list[Claim]:
    """Return what is claimed."""

    def against(percentile: float) -> list[float]:
        runs = ([float(np.percentile(r, percentile)) for r in each] for each in latencies.values())
        return ratios(*runs)

    def rate(side: str, other: str) -> list[float]:
        return ratios(throughput[side], throughput[other])

    images = [
        (row / np.mean(MIXED_STEPS)) / (padded / max(MIXED_STEPS))
        for row, padded in zip(capacity["continuous"], capacity["dynamic"], strict=True)
    ]
    *_, part, strict = throughput
    return [
        Claim("FLOP utilisation, bare", utilisation["bare"].tolist(), "at least", 0.60),
        Claim("FLOP utilisation, engine", utilisation["engine"].tolist(), "at least", 0.57),
        Claim("engine / bare", rate("engine", "bare"), "at least", 0.95),
        Claim("engine / published loop", rate("engine", "published loop"), "at least", 3.0),
        Claim("graphs / no graphs", rate("rows, graphs", "rows, no graphs"), "at least", 1.0),
        Claim(f"{strict} / not", rate(strict, part), "at least", 0.3),
        Claim("images at saturation, continuous / dynamic", images, "at least", 1.6),
        Claim("p50, continuous / dynamic", against(50), "at most", 0.3),
        Claim("p99, continuous / dynamic", against(99), "at most", 0.4),
    ]


def throughput_table(
    throughput: Mapping[str, np.ndarray], utilisation: Mapping[str, np.ndarray]
) -> Table:
    """Return medians."""
    lines: list[list[str | float]] = [
        [
            side,
            float(np.median(rates)),
            float(np.median(rates)) / EVALUATIONS,
            100 * float(np.median(utilisation[side])),
        ]
        for side, rates in throughput.items()
    ]
    columns = ["", "rows/s", f"images/s of {EVALUATIONS} evaluations", "FLOP utilisation, %"]
    return Table("Throughput", columns, lines)


def latency_table(latencies: Mapping[str, Sequence[Sequence[float]]]) -> Table:
    """Return percentiles over all repetitions."""
    percentiles = (50, 90, 99)
    lines: list[list[str | float]] = [
        [side, *(1000 * float(np.percentile(np.concatenate(runs), p)) for p in percentiles)]
        for side, runs in latencies.items()
    ]
    return Table("Latency, ms", ["", *(f"p{p}" for p in percentiles)], lines)


if __name__ == "__main__":
    typer.run(main)
