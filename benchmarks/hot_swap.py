"""What requests notice when bank or model change under a mixed load: nothing failed, nothing mixed.

One server answers an open loop at 80 % of what the fixed-window baseline can do. On the sides
*bank swaps* and *model swaps* the production alias moves several times, to a version that the
server has never seen: it finds, verifies, opens and tries it out beside the requests in flight.
Every answer is checked: its snippets are rows of the bank version it names, and a sample of its
images comes out of a replay, which names versions, pixel by pixel.

Run: ``python -m benchmarks.hot_swap [--quick]``.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import typer
from PIL import Image

from benchmarks.harness import systems, versions
from benchmarks.harness.arrivals import poisson
from benchmarks.harness.comparison import Bench
from benchmarks.harness.interleave import Spread, interleaved, ratios
from benchmarks.harness.load import Outcome, latency_ms, open_loop
from benchmarks.harness.report import Claim, Result, Table, save
from benchmarks.harness.servers import Server, pin_client, serving
from benchmarks.harness.workload import MIXED
from gmem_shared import logs
from gmem_shared.bank_format import open_bank
from gmem_shared.settings import LogSettings
from gmem_shared.store import Repository, Store, Version
from gmem_shared.types import Kind

STEADY, BANK, MODEL = "steady", "bank swaps", "model swaps"
KINDS: dict[str, Kind] = {BANK: "banks", MODEL: "models"}
SHARE = 0.8
REPLAYED = 4
"""Images of every pair of versions that are made again."""
NEAR_SECONDS = 1.0
"""How close to the first answer of a new version a request counts as near a swap."""

SETTING = (
    "Poisson arrivals of requests with 8/16/25/50 steps at 80 % of the fixed-window capacity, one "
    "server on one core, clients on the other. During a run the alias moves to versions new to "
    "the server; alias and bank are polled as by default, every 2 s. *Near* are requests in "
    f"flight within {NEAR_SECONDS:g} s of the first answer from a new version."
)


@dataclass
class Run:
    """One side of one repetition."""

    outcomes: Sequence[Outcome]
    answers: list[dict[str, Any]] = field(init=False)
    failed: int = field(init=False)
    mixed: int = 0
    replayed: int = 0

    def __post_init__(self) -> None:
        self.answers = [json.loads(o.answer) for o in self.outcomes if o.ok]
        self.failed = sum(not o.ok for o in self.outcomes)

    def percentile(self, name: str) -> float:
        """Return a latency of the answered requests, ms."""
        return latency_ms([o for o in self.outcomes if o.ok])[name]

    def versions(self, kind: str) -> set[int]:
        """Return the sequence numbers of the banks or models that answered."""
        return {answer[kind.removesuffix("s")]["seq"] for answer in self.answers}

    def near(self, kind: str) -> list[Outcome]:
        """Return the requests in flight while a version came into use."""
        answered = [o for o in self.outcomes if o.ok]
        first: dict[int, float] = {}
        for outcome, answer in zip(answered, self.answers, strict=True):
            seq = answer[kind.removesuffix("s")]["seq"]
            first[seq] = min(first.get(seq, np.inf), outcome.sent)
        moments = sorted(first.values())[1:]
        return [
            o
            for o in answered
            if any(o.scheduled < m + NEAR_SECONDS and o.ended > m - NEAR_SECONDS for m in moments)
        ]


@dataclass(frozen=True)
class Swaps:
    """The versions that are to come into use during one run."""

    repository: Repository
    new: Sequence[Version]
    seconds: float

    @contextmanager
    def happening(self) -> Iterator[None]:
        """Move the alias at even intervals; the last version has time to come into use."""
        interval = self.seconds / (len(self.new) + 1)
        mover = threading.Thread(target=self._move, args=(interval,))
        mover.start()
        try:
            yield
        finally:
            mover.join()

    def _move(self, interval: float) -> None:
        time.sleep(interval / 2)
        for version in self.new:
            versions.point(self.repository, version)
            time.sleep(interval)


@dataclass(frozen=True)
class Rig:
    """A server, its store and the load."""

    server: Server
    store: Store
    rate: float
    seconds: float
    swaps: int

    def run(self, side: str, repetition: int) -> Run:
        """Measure a side; all sides see the same arrivals and requests."""
        rng = np.random.default_rng(2000 + repetition)
        times = poisson(self.rate, self.seconds, rng)
        requests = MIXED.requests(len(times), seed=3000 + repetition)
        seeded = [{**request, "seed": number} for number, request in enumerate(requests)]
        bodies = self.server.system.bodies(seeded)
        load = partial(open_loop, self.server.url, bodies, times)
        if side == STEADY:
            return self._checked(load())
        with self._swaps(side).happening():
            outcomes = load()
        return self._checked(outcomes)

    def _swaps(self, side: str) -> Swaps:
        publish = {BANK: versions.publish_bank, MODEL: versions.publish_model}[side]
        repository = self.store.repository(KINDS[side], versions.NAME)
        begun = len(repository.versions())
        new = [publish(self.store, begun + number) for number in range(self.swaps)]
        return Swaps(repository, new, self.seconds)

    def _checked(self, outcomes: Sequence[Outcome]) -> Run:
        run = Run(outcomes)
        run.mixed = sum(not self._snippets_match(answer) for answer in run.answers)
        for image, png in self._sample(run.answers):
            run.mixed += not np.array_equal(_pixels(self._replay(image["replay"])), _pixels(png))
            run.replayed += 1
        return run

    def _snippets_match(self, answer: Mapping[str, Any]) -> bool:
        """Whether every image's snippet is that row of the bank that the answer names."""
        repository = self.store.repository("banks", answer["bank"]["name"])
        bank = open_bank(repository.open(repository.resolve(answer["bank"]["digest"])))
        return all(
            snippet["row"] < len(bank) and bank.source_ids[snippet["row"]] == snippet["source_id"]
            for image in answer["images"]
            for snippet in image["snippets"]
        )

    def _sample(self, answers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, str]]:
        """Yield a few images of every pair of versions, and their PNG."""
        taken: dict[tuple[str, str], int] = defaultdict(int)
        for answer in answers:
            pair = (answer["bank"]["digest"], answer["model"]["digest"])
            if taken[pair] < REPLAYED:
                taken[pair] += 1
                yield answer["images"][0], answer["images"][0]["b64_png"]

    def _replay(self, token: str) -> str:
        request = urllib.request.Request(  # noqa: S310 (our own server)
            self.server.url,
            json.dumps({"replay": token}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(json.load(answer)["images"][0]["b64_png"])


def main(quick: bool = False, repetitions: int = 5, seconds: float = 15.0, swaps: int = 4) -> None:
    """Measure; the quick run is short and has two swaps a side."""
    logs.configure(LogSettings(level="WARNING"))
    systems.prepare()
    store = versions.copy_store(systems.STORE, systems.WORK / "swap-store")
    pin_client()
    if quick:
        repetitions, seconds, swaps = 1, 8.0, 2
    rate = SHARE * _fixed_window_capacity()
    ours = systems.product("swapped", STORE__URL=str(systems.WORK / "swap-store"))
    with serving(ours) as server:
        rig = Rig(server, store, rate, seconds, swaps)
        sides = (STEADY, BANK, MODEL)
        runs = interleaved({side: partial(rig.run, side) for side in sides}, repetitions)
    save(_result(runs, rate, swaps), systems.results(quick=quick))


def _fixed_window_capacity() -> float:
    """Return the requests per second that the baseline of the mixed load manages."""
    (name,) = (name for name, mode in systems.PRODUCT.items() if mode == "dynamic")
    with serving(systems.product(name, "dynamic")) as server:
        bench = Bench({name: server}, repetitions=3, seconds=3.0, clients=128)
        return statistics.median(bench.saturate(MIXED, [name])[name])


def _result(runs: Mapping[str, Sequence[Run]], rate: float, swaps: int) -> Result:
    swapped = [run for side in KINDS for run in runs[side]]
    claims = [
        Claim(
            f"{side}: p99 against steady",
            ratios(_percentiles(runs[side], "p99"), _percentiles(runs[STEADY], "p99")),
            "at most",
            2.0,
        )
        for side in KINDS
    ]
    claims += [
        Claim("requests failed", [float(run.failed) for run in swapped], "at most", 0.0),
        Claim(
            "answers or images of another version", [float(r.mixed) for r in swapped], "at most", 0
        ),
        Claim(
            "versions that answered, of those put into use",
            [(len(r.versions(kind)) - 1) / swaps for s, kind in KINDS.items() for r in runs[s]],
            "at least",
            1.0,
        ),
    ]
    return Result(
        name="hot_swap",
        title="Hot swap under load",
        setting=f"{SETTING} {rate:.0f} requests/s, {swaps} swaps a run.",
        claims=claims,
        tables=[_latencies(runs), _near(runs)],
        raw={
            side: [
                {p: run.percentile(p) for p in ("p50", "p90", "p95", "p99")}
                | {"requests": len(run.outcomes), "failed": run.failed, "mixed": run.mixed}
                | {"replayed": run.replayed}
                for run in of_side
            ]
            for side, of_side in runs.items()
        },
    )


def _percentiles(runs: Sequence[Run], name: str) -> list[float]:
    return [run.percentile(name) for run in runs]


def _latencies(runs: Mapping[str, Sequence[Run]]) -> Table:
    names = ("p50", "p90", "p99")
    rows = [
        [side, *(str(Spread.of(_percentiles(of_side, p))) for p in names)]
        for side, of_side in runs.items()
    ]
    return Table("Latency in ms", ["", *names], rows)


def _near(runs: Mapping[str, Sequence[Run]]) -> Table:
    rows = []
    for side, kind in KINDS.items():
        near = [run.near(kind) for run in runs[side]]
        latencies = [latency_ms(outcomes) for outcomes in near if outcomes]
        slowest = [1000 * max(o.latency for o in outcomes) for outcomes in near if outcomes]
        if latencies:
            cells = [[each[p] for each in latencies] for p in ("p50", "p99")]
            rows.append([side, *(str(Spread.of(values)) for values in [*cells, slowest])])
    return Table("Latency near a swap, ms", ["", "p50", "p99", "slowest"], rows)


def _pixels(png: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


if __name__ == "__main__":
    typer.run(main)
