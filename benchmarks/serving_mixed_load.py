"""Latency and throughput of four batching policies and four peers under requests of mixed steps.

All systems serve the same network from the same checkpoint with the same runtime, alone on one
core, the clients on another; only one is under load at a time. Request-level systems answer a batch
when its longest request is done; ``continuous`` lets rows join and leave at every evaluation.

Every system is saturated first; the median is its capacity. Then open loops at 80 % of a capacity
show the latencies of several systems under the very same arrivals.

Run: ``python -m benchmarks.serving_mixed_load [--quick]``; 17 minutes, 2 when quick.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import typer

from benchmarks.harness import arrivals, systems
from benchmarks.harness.comparison import Bench, Comparison, Load
from benchmarks.harness.interleave import Spread, ratios
from benchmarks.harness.report import Claim, Result, Table, save
from benchmarks.harness.servers import pin_client, serving
from benchmarks.harness.workload import MIXED, MIXED_IMAGES, UNIFORM, WIDER, Mix

OURS, GROUPED, FIXED, SINGLE = systems.PRODUCT
POLICIES = (OURS, GROUPED, FIXED)
BATCHING_PEERS = ("LitServe", "BentoML", "Triton dynamic batcher")
SHARE = 0.8

Saturated = dict[Mix, dict[str, list[float]]]
"""Requests per second, per mix, side and repetition."""

SETTING = (
    "Requests with different step counts (two-step Adams-Bashforth, 8 by 8 digits). Every system "
    "serves the same network from the same checkpoint on ONNX Runtime, alone on one core; the "
    f"clients have the other. *{FIXED}* forms batches of at most 64 within {systems.WINDOW_MS:g} "
    "ms and answers each when its longest request is done, as the peers do; *grouped by steps* "
    "prefers requests of equal steps and answers each when it is done, but lets nobody join. "
    "Latency counts from the scheduled arrival."
)


def main(
    quick: bool = False, repetitions: int = 5, seconds: float = 6.0, clients: int = 128
) -> None:
    """Measure; the quick run leaves out the peers and all but one load, and repeats less."""
    systems.prepare()
    if quick:
        repetitions, seconds = 3, 2.5
    sides = [systems.product(name, mode) for name, mode in systems.PRODUCT.items()]
    if not quick:
        systems.export()
        sides += [peer() for peer in systems.PEERS.values()]
    pin_client()
    with ExitStack() as stack:
        servers = {side.name: stack.enter_context(serving(side)) for side in sides}
        bench = Bench(servers, repetitions, seconds, clients)
        saturated = {MIXED: bench.saturate(MIXED, list(servers))}
        comparisons = [bench.compare(_load(saturated, FIXED), POLICIES)]
        if not quick:
            comparisons += _further(bench, saturated)
    save(_result(saturated, comparisons), systems.results(quick=quick))


def _further(bench: Bench, saturated: Saturated) -> list[Comparison]:
    """Compare with each batching peer at its own capacity, at ours, in bursts, in other mixes."""
    loads = [(_load(saturated, peer), (OURS, peer)) for peer in BATCHING_PEERS]
    loads.append((_load(saturated, OURS), (OURS, GROUPED)))
    loads.append((_load(saturated, FIXED, process=arrivals.bursty), (OURS, FIXED)))
    for mix in (WIDER, MIXED_IMAGES, UNIFORM):
        saturated[mix] = bench.saturate(mix, (OURS, FIXED))
        loads.append((_load(saturated, FIXED, mix), (OURS, FIXED)))
    return [bench.compare(load, sides) for load, sides in loads]


def _load(
    saturated: Saturated,
    reference: str,
    mix: Mix = MIXED,
    process: arrivals.Process = arrivals.poisson,
) -> Load:
    rate = SHARE * statistics.median(saturated[mix][reference])
    return Load(mix, rate, SHARE, reference, process)


def _result(saturated: Saturated, comparisons: Sequence[Comparison]) -> Result:
    claims = _throughput_claims(saturated)
    for comparison in comparisons:
        claims += _latency_claims(comparison)
    return Result(
        name="serving_mixed_load",
        title="Mixed load",
        setting=SETTING,
        claims=claims,
        tables=[_capacities(saturated), *(comparison.table() for comparison in comparisons)],
        plots=[comparisons[0].plot()],
        raw={
            "requests_per_second": {mix.name: sides for mix, sides in saturated.items()},
            "latency": [comparison.raw() for comparison in comparisons],
        },
    )


def _throughput_claims(saturated: Saturated) -> list[Claim]:
    goals = {FIXED: 1.6, SINGLE: 3.0} | dict.fromkeys(systems.PEERS, 1.0)
    sides = saturated[MIXED]
    claims = [
        Claim(
            f"saturated: requests/s against {side}",
            ratios(sides[OURS], sides[side]),
            "at least",
            goal,
        )
        for side, goal in goals.items()
        if side in sides
    ]
    for mix, others in saturated.items():
        if mix != MIXED:
            rates = ratios(others[OURS], others[FIXED])
            name = f"saturated with {mix.name}: requests/s against {FIXED}"
            claims.append(Claim(name, rates, "at least", 1.0, within_spread=True))
    return claims


def _latency_claims(comparison: Comparison) -> list[Claim]:
    load = comparison.load
    if load.reference == OURS:
        goals = {(GROUPED, "p95"): 1.0}
    elif load.mix != MIXED or load.process is not arrivals.poisson:
        goals = {(FIXED, "p50"): 1.0, (FIXED, "p99"): 1.0}
    else:
        goals = {(load.reference, "p50"): 0.3, (load.reference, "p99"): 0.4}
        if load.reference == FIXED:
            goals |= {(GROUPED, "p50"): 0.6, (GROUPED, "p99"): 1.0}
    return [
        Claim(
            f"{load}: {percentile} against {side}",
            comparison.ratios(OURS, side, percentile),
            "at most",
            goal,
            within_spread=goal == 1.0 and (side, percentile) != (GROUPED, "p99"),
        )
        for (side, percentile), goal in goals.items()
    ]


def _capacities(saturated: Mapping[Mix, Mapping[str, Sequence[float]]]) -> Table:
    rows = [
        [mix.name, side, str(Spread.of(rates))]
        for mix, sides in saturated.items()
        for side, rates in sides.items()
    ]
    return Table("Requests per second at saturation", ["mix", "", "requests/s"], rows)


if __name__ == "__main__":
    typer.run(main)
