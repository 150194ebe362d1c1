"""Servers under the same load, one at a time: capacity by a closed loop, latency by an open one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.harness import arrivals
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.load import Outcome, closed_loop, open_loop, throughput
from benchmarks.harness.report import Plot, Table
from benchmarks.harness.servers import Server, awake, pause
from benchmarks.harness.workload import Mix

PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Load:
    """An open loop.

    Attributes:
        mix: What is asked for.
        rate: Requests per second.
        share, reference: What the rate is: a share of the capacity of this side.
        process: `arrivals.poisson` or `arrivals.bursty`.
    """

    mix: Mix
    rate: float
    share: float
    reference: str
    process: arrivals.Process = arrivals.poisson

    def __str__(self) -> str:
        """Say what the load is."""
        share = f"{self.share:.0%} of the capacity of {self.reference}"
        return f"{self.mix.name}, {self.process.__name__}, {share}"


@dataclass(frozen=True)
class Comparison:
    """Latencies of several sides under one load, in seconds, per side and repetition."""

    load: Load
    latencies: Mapping[str, Sequence[Sequence[float]]]

    def of(self, side: str, percentile: str) -> list[float]:
        """Return a percentile of every repetition in milliseconds."""
        q = float(percentile.removeprefix("p"))
        return [1000 * float(np.percentile(run, q)) for run in self.latencies[side]]

    def ratios(self, side: str, against: str, percentile: str) -> list[float]:
        """Return the ratio of two sides' percentiles in every repetition."""
        return ratios(self.of(side, percentile), self.of(against, percentile))

    def table(self) -> Table:
        """Return medians over the repetitions."""
        rows = [
            [side, *(statistics.median(self.of(side, p)) for p in PERCENTILES)]
            for side in self.latencies
        ]
        title = f"{self.load} ({self.load.rate:.3g} requests/s): latency in ms"
        return Table(title, ["", *PERCENTILES], rows)

    def plot(self) -> Plot:
        """Return the distributions over all repetitions."""
        shares = np.linspace(0.5, 99.5, 100)
        series = {
            side: (
                [1000 * float(np.percentile(np.concatenate(runs), q)) for q in shares],
                shares.tolist(),
            )
            for side, runs in self.latencies.items()
        }
        title = f"Latency, {self.load.mix.name}, {self.load.process.__name__}"
        return Plot(title, "latency in ms", "% of the requests", series, log_x=True)

    def raw(self) -> dict[str, object]:
        """Return every repetition's percentiles, ms."""
        measured = {side: {p: self.of(side, p) for p in PERCENTILES} for side in self.latencies}
        return {
            "load": str(self.load),
            "requests_per_second": self.load.rate,
            "latency_ms": measured,
        }


@dataclass(frozen=True)
class Bench:
    """Running servers, of which all but the one under load stand still.

    Attributes:
        servers: By name.
        repetitions: How often every side is measured, after one warm-up.
        seconds: Length of a measurement; a quarter in the warm-up.
        clients: Width of the closed loop.
    """

    servers: Mapping[str, Server]
    repetitions: int
    seconds: float
    clients: int

    def __post_init__(self) -> None:
        for server in self.servers.values():
            pause(server)

    def saturate(self, mix: Mix, sides: Sequence[str]) -> dict[str, list[float]]:
        """Return requests per second at saturation, per side and repetition."""
        measure = {side: partial(self._saturated, mix, self.servers[side]) for side in sides}
        return interleaved(measure, self.repetitions)

    def compare(self, load: Load, sides: Sequence[str]) -> Comparison:
        """Return latencies under a load; all sides see the very same arrivals and requests."""
        print(f"{load}: {load.rate:.3g} requests/s", flush=True)
        measure = {side: partial(self._loaded, load, self.servers[side]) for side in sides}
        return Comparison(load, interleaved(measure, self.repetitions))

    def _saturated(self, mix: Mix, server: Server, repetition: int) -> float:
        seconds = self._length(repetition)
        bodies = server.system.bodies(mix.requests(2000, seed=1000 + repetition))
        with awake(server):
            outcomes = closed_loop(server.url, bodies, self.clients, seconds)
        _check(server, outcomes)
        rate = throughput(outcomes, seconds / 4, seconds)
        if not rate and repetition >= 0:
            raise SystemExit(f"{server.system.name} answered nothing for {seconds:g} s; use more")
        return rate

    def _loaded(self, load: Load, server: Server, repetition: int) -> list[float]:
        rng = np.random.default_rng(2000 + repetition)
        times = load.process(load.rate, self._length(repetition), rng)
        requests = load.mix.requests(len(times), seed=3000 + repetition)
        with awake(server):
            outcomes = open_loop(server.url, server.system.bodies(requests), times)
        _check(server, outcomes)
        return [outcome.latency for outcome in outcomes]

    def _length(self, repetition: int) -> float:
        return self.seconds if repetition >= 0 else self.seconds / 4


def _check(server: Server, outcomes: Sequence[Outcome]) -> None:
    """A refused request costs nothing and would make a server look fast."""
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed:
        raise SystemExit(
            f"{server.system.name}: {len(failed)} of {len(outcomes)} requests failed: {failed[0]}"
        )
