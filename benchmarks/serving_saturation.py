"""Throughput and latency from one client to far too many, and what becomes of the excess.

1. A closed loop of 1 … 256 clients: throughput must not fall once the engine is full.
2. An open loop at four times the peak, with a bounded queue: the excess is refused with 429 and
   must not cost throughput.
3. The same as a burst, by clients who follow ``Retry-After`` and try once more.

Run: ``python -m benchmarks.serving_saturation [--quick]``; 10 minutes, 1 when quick.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import typer

from benchmarks.harness import arrivals, systems
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.load import (
    Outcome,
    closed_loop,
    latency_ms,
    open_loop,
    patient_open_loop,
    throughput,
)
from benchmarks.harness.report import Claim, Plot, Result, Table, save
from benchmarks.harness.servers import Server, pin_client, serving
from benchmarks.harness.workload import MIXED, Mix, evaluations

OURS, _, FIXED, _ = systems.PRODUCT
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FOUR_IMAGES = Mix("8/16/25/50 steps, 4 images", MIXED.steps, (4,))
MAX_WAITING_IMAGES = 512
OVERLOAD = 4.0
BURST_SECONDS = 3.0

SETTING = (
    "The curve is a closed loop of one-image requests of 8, 16, 25 or 50 steps; server and clients "
    f"have a core each. The overload is an open loop of four-image requests at {OVERLOAD:g} times "
    f"the rate of a closed loop; the server admits {MAX_WAITING_IMAGES} unfinished images and "
    "refuses the rest, which in a burst try once more after the time they were told. In overload "
    "the network evaluations of answered requests are counted."
)


@dataclass(frozen=True)
class Point:
    """One measurement of a closed loop."""

    requests_per_second: float
    p99_ms: float


Curve = dict[tuple[str, int], list[Point]]
"""Per side and number of clients: every repetition."""

Tries = list[Outcome]
"""The one or two tries of a patient client."""


@dataclass(frozen=True)
class Overload:
    """Every repetition of both sides, evaluations per second, and of a burst."""

    peak: list[float]
    overloaded: list[float]
    bursts: list[list[Tries]]


def main(quick: bool = False, repetitions: int = 5, seconds: float = 4.0) -> None:
    """Measure; the quick run looks at the product only, at fewer clients, and not as often."""
    systems.prepare()
    pin_client()
    sides, clients = (OURS, FIXED), CLIENTS
    if quick:
        sides, clients, repetitions, seconds = (OURS,), (1, 16, 256), 3, 1.5
    curve = measure_curve(sides, clients, repetitions, seconds)
    bounded = systems.product("bounded", GENERATOR__MAX_WAITING_IMAGES=str(MAX_WAITING_IMAGES))
    with serving(bounded) as server:
        rates = measure_overload(server, repetitions, seconds)
    with serving(bounded) as server:  # which has promised nothing to those who never came back
        bursts = measure_bursts(server, repetitions, seconds)
    save(_result(curve, Overload(**rates, bursts=bursts)), systems.results(quick=quick))


def measure_curve(
    sides: Sequence[str], clients: Sequence[int], repetitions: int, seconds: float
) -> Curve:
    """Run closed loops of every width against every side."""

    def point(server: Server, count: int, repetition: int) -> Point:
        bodies = server.system.bodies(MIXED.requests(2000, seed=repetition + 1))
        outcomes = closed_loop(server.url, bodies, count, seconds)
        rate = throughput(outcomes, seconds / 4, seconds)
        return Point(rate, latency_ms(outcomes)["p99"])

    with ExitStack() as stack:
        servers = {
            side: stack.enter_context(serving(systems.product(side, systems.PRODUCT[side])))
            for side in sides
        }
        return interleaved(
            {
                (side, count): partial(point, servers[side], count)
                for count, side in itertools.product(clients, sides)
            },
            repetitions,
        )


def measure_overload(server: Server, repetitions: int, seconds: float) -> dict[str, list[float]]:
    """Keep a bounded server full, and overload it; return evaluations per second."""
    bodies, work = _four_images(server)
    rate = OVERLOAD * _peak(server, bodies, seconds)

    def peak(_: int) -> float:
        return _peak(server, bodies, seconds, work)

    def overloaded(repetition: int) -> float:
        times = arrivals.poisson(rate, 2 * seconds, np.random.default_rng(repetition + 1))
        outcomes = open_loop(server.url, bodies, times)
        return throughput(outcomes, seconds, 2 * seconds, work)

    return interleaved({"peak": peak, "overloaded": overloaded}, repetitions)


def measure_bursts(server: Server, repetitions: int, seconds: float) -> list[list[Tries]]:
    """Send a bounded server bursts of patient clients."""
    bodies, _ = _four_images(server)
    rate = OVERLOAD * _peak(server, bodies, seconds)

    def burst(repetition: int) -> list[Tries]:
        times = arrivals.poisson(rate, BURST_SECONDS, np.random.default_rng(repetition))
        return patient_open_loop(server.url, bodies, times)

    return [burst(repetition) for repetition in range(repetitions)]


def _four_images(server: Server) -> tuple[list[bytes], list[float]]:
    """Return bodies, each asking for something of its own, and their evaluations."""
    requests = FOUR_IMAGES.requests(2000, seed=0)
    seeded = [{**request, "seed": number} for number, request in enumerate(requests)]
    return server.system.bodies(seeded), evaluations(requests)


def _peak(
    server: Server, bodies: Sequence[bytes], seconds: float, work: Sequence[float] = (1,)
) -> float:
    """Return the work per second of a closed loop that fills the engine and is never refused.

    Half of the places are always there for newcomers, whatever was promised to others.
    """
    clients = MAX_WAITING_IMAGES // 2 // FOUR_IMAGES.images[0]
    outcomes = closed_loop(server.url, bodies, clients, 2 * seconds)
    latency_ms(outcomes)  # fails when a request did
    return throughput(outcomes, seconds, 2 * seconds, work)


def _result(curve: Curve, overload: Overload) -> Result:
    clients = sorted({count for _, count in curve})
    rates = [[p.requests_per_second for p in curve[OURS, count]] for count in clients]
    peaks = [max(repetition) for repetition in zip(*rates, strict=True)]
    return Result(
        name="serving_saturation",
        title="Cost against load",
        setting=SETTING,
        claims=[
            Claim(
                f"requests/s with {clients[-1]} clients against the peak of the curve",
                ratios(rates[-1], peaks),
                "at least",
                0.9,
            ),
            Claim(
                f"evaluations/s at {OVERLOAD:g} times the load against a full queue",
                ratios(overload.overloaded, overload.peak),
                "at least",
                0.9,
            ),
            Claim(
                "share of refused requests that succeed after their Retry-After",
                [_second_success(burst) for burst in overload.bursts],
                "at least",
                0.95,
            ),
        ],
        tables=[_curve_table(curve), _burst_table(overload.bursts)],
        plots=[
            _plot(curve, "Throughput against load", "requests_per_second", "requests/s"),
            _plot(curve, "p99 against load", "p99_ms", "p99 in ms"),
        ],
        raw={
            "curve": [
                {"side": side, "clients": count, "points": [asdict(p) for p in points]}
                for (side, count), points in curve.items()
            ],
            "evaluations_per_second": {"peak": overload.peak, "overloaded": overload.overloaded},
        },
    )


def _second_success(burst: Sequence[Tries]) -> float:
    """Return the share of refused requests whose second try was answered with images."""
    seconds = [tries[1].ok for tries in burst if len(tries) == 2]
    if not seconds:
        raise SystemExit("expected the server to refuse some of a burst, found that it took all")
    return sum(seconds) / len(seconds)


def _median(points: Sequence[Point], attribute: str) -> float:
    return statistics.median(getattr(point, attribute) for point in points)


def _curve_table(curve: Curve) -> Table:
    rows = [
        [side, str(count), _median(points, "requests_per_second"), _median(points, "p99_ms")]
        for (side, count), points in sorted(curve.items())
    ]
    return Table("Closed loop", ["", "clients", "requests/s", "p99 ms"], rows)


def _burst_table(bursts: Sequence[Sequence[Tries]]) -> Table:
    rows: list[list[str | float]] = []
    for burst in bursts:
        waits = [tries[0].retry_after or 0.0 for tries in burst if len(tries) == 2]
        shortest, longest = (min(waits), max(waits)) if waits else (0.0, 0.0)
        span = f"{shortest:.0f} … {longest:.0f}"
        rows.append([str(len(burst)), str(len(waits)), span, _second_success(burst)])
    columns = ["requests", "refused at first", "Retry-After, s", "of these succeed then"]
    return Table(f"Bursts of {BURST_SECONDS:g} s at {OVERLOAD:g} times the load", columns, rows)


def _plot(curve: Curve, title: str, attribute: str, label: str) -> Plot:
    series = {
        side: (
            [count for (s, count) in curve if s == side],
            [_median(points, attribute) for (s, _), points in curve.items() if s == side],
        )
        for side in dict.fromkeys(side for side, _ in curve)
    }
    return Plot(title, "clients", label, series, log_x=True, log_y=attribute == "p99_ms")


if __name__ == "__main__":
    typer.run(main)
