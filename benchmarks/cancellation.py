"""What clients who leave cost: evaluations made for nobody, and what stays behind afterwards.

*Saved*: clients keep requests of mixed steps in flight and leave half of them at a random point of
the denoising, by closing the connection. What their rows still needed at that moment need not be
computed; the engine's own count of row evaluations tells how much of it was not.

*Left behind*: 10,000 requests of every kind, answered, streamed, left, late, refused and wrong;
then nothing may run or wait, and memory, files and threads must be what they were.

Run: ``python -m benchmarks.cancellation [--quick]``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import typer

from benchmarks.harness import metrics, systems
from benchmarks.harness.interleave import Spread
from benchmarks.harness.report import Claim, Plot, Result, Table, save
from benchmarks.harness.servers import Request, Server, pin_client, serving
from benchmarks.harness.workload import Mix

MIX = Mix("8/16/25/50 steps, 1/2/4 images", (8, 16, 25, 50), (1, 2, 4))
CLIENTS = 12
"""With at most four images each they never fill the batch: no row waits, so each makes every
evaluation between its first and its last."""
BEFORE = ("parse", "plan", "bank", "queue")
"""Stages of a request before its rows are in the batch."""
LIMIT = 96
"""Images that the server of the second part takes; some requests are refused."""
PORTION = 1000
SETTLED_AFTER = 5
"""Portions until memory pools, caches and compiled paths have filled."""

SETTING = (
    f"One server on one core, clients on the other. Saved: {CLIENTS} clients, {MIX.name}, every "
    "second request is left at a uniformly random point of its expected duration; what a row had "
    "behind it then is read off the engine's count of evaluations, from the moment the request was "
    "sent plus all of the overhead of the answered requests. Left behind: requests of seven kinds "
    f"by 32 clients, the server takes {LIMIT} images; it is looked at after every {PORTION} "
    "requests, when it has nothing to do."
)


@dataclass(frozen=True)
class Sent:
    """A request's life as its client saw it; moments of `time.perf_counter`.

    Attributes:
        request: What was asked for.
        sent, ended: When it was sent, and answered or left.
        answer: ``None`` when it was left.
    """

    request: Request
    sent: float
    ended: float
    answer: Mapping[str, Any] | None

    @property
    def seconds_to_batch(self) -> float:
        """Seconds until the rows of an answered request were in the batch.

        Half of what the server does not account for, the network and both HTTP stacks, comes
        before.
        """
        assert self.answer is not None
        timings = self.answer["timings_ms"]
        outside = 1000 * (self.ended - self.sent) - timings["total"]
        return float(outside / 2 + sum(timings.get(stage, 0.0) for stage in BEFORE)) / 1000


@dataclass(frozen=True)
class Savings:
    """Row evaluations of the requests that were left, in one repetition.

    Attributes:
        left, answered: Numbers of requests.
        rows: Images of the requests that were left.
        asked: Evaluations they would have taken to the end.
        made: Those that were made.
        behind: Those that had been made when the clients left.
        wasted: What the engine itself counted as wasted.
    """

    left: int
    answered: int
    rows: int
    asked: float
    made: float
    behind: float
    wasted: float

    @property
    def share(self) -> float:
        """Saved evaluations in units of those no longer needed."""
        return (self.asked - self.made) / (self.asked - self.behind)


class Leavers:
    """Clients of which every second request is left.

    Args:
        url: Where requests go.
        expected: Seconds that a request takes, by its steps; those of ``None`` are never left.
    """

    def __init__(self, server: Server, expected: Mapping[int, float] | None, seed: int) -> None:
        self._server = server
        self._expected = expected
        self._rng = np.random.default_rng(seed)
        self.sent: list[Sent] = []

    async def run(self, session: aiohttp.ClientSession, seconds: float, seed: int) -> None:
        """Keep the clients busy for a while."""
        supply = iter(enumerate(itertools.cycle(MIX.requests(5000, seed))))
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(session, supply, until) for _ in range(CLIENTS)))

    async def _client(
        self,
        session: aiohttp.ClientSession,
        supply: Iterator[tuple[int, Request]],
        until: float,
    ) -> None:
        while time.perf_counter() < until:
            number, request = next(supply)
            patience = None
            if self._expected is not None and number % 2:
                patience = self._rng.uniform() * self._expected[request["num_steps"]]
            (body,) = self._server.system.bodies([request])
            sent, answer = time.perf_counter(), None
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(patience),
                    session.post(self._server.url, data=body) as response,
                ):
                    assert response.status == 200, await response.text()
                    answer = json.loads(await response.read())
            await asyncio.sleep(0)  # only now is the socket of a request that was left closed
            self.sent.append(Sent(request, sent, time.perf_counter(), answer))

    @property
    def answered(self) -> list[Sent]:
        """The requests that were not left."""
        return [sent for sent in self.sent if sent.answer is not None]

    @property
    def left(self) -> list[Sent]:
        """The requests that were."""
        return [sent for sent in self.sent if sent.answer is None]


async def expected_seconds(server: Server, seconds: float) -> dict[int, float]:
    """Return the median duration by steps while nobody leaves."""
    leavers = Leavers(server, None, seed=0)
    async with _session() as session:
        await leavers.run(session, seconds, seed=1)
    return {
        steps: statistics.median(
            sent.ended - sent.sent for sent in leavers.sent if sent.request["num_steps"] == steps
        )
        for steps in MIX.steps
    }


async def savings(
    server: Server, expected: Mapping[int, float], seconds: float, repetition: int
) -> Savings:
    """Measure one repetition."""
    made = "gmem_engine_evaluation_rows_sum"
    wasted = "gmem_engine_wasted_evaluations_total"
    before = metrics.settled(server.url)
    leavers, clock = Leavers(server, expected, seed=100 + repetition), metrics.EvaluationClock()
    async with _session() as session, clock.watching(session, server.url):
        await leavers.run(session, seconds, seed=200 + repetition)
    after = metrics.settled(server.url)
    lag = statistics.median(sent.seconds_to_batch for sent in leavers.answered)
    evaluations = {
        sent.request["num_steps"]: sent.answer["usage"]["network_evaluations"]
        / len(sent.answer["images"])
        for sent in leavers.answered
        if sent.answer is not None
    }
    asked = behind = 0.0
    for sent in leavers.left:
        each, rows = evaluations[sent.request["num_steps"]], sent.request["num_images"]
        begun = min(sent.sent + lag, sent.ended)
        asked += rows * each
        behind += rows * min(each, clock.between(begun, sent.ended))
    delivered = sum(
        sent.answer["usage"]["network_evaluations"]
        for sent in leavers.answered
        if sent.answer is not None
    )
    return Savings(
        left=len(leavers.left),
        answered=len(leavers.answered),
        rows=sum(sent.request["num_images"] for sent in leavers.left),
        asked=asked,
        made=after[made] - before[made] - delivered,
        behind=behind,
        wasted=after[wasted] - before[wasted],
    )


@dataclass(frozen=True)
class Kind:
    """A way in which a request may go."""

    name: str
    body: Mapping[str, Any]
    accept: str = "application/json"
    patience: float | None = None


KINDS = (
    Kind("answered", {"num_steps": 2}),
    Kind("several images", {"num_steps": 4, "num_images": 3}, accept="image/png"),
    Kind("streamed", {"num_steps": 4, "num_images": 3}, accept="text/event-stream"),
    Kind("left", {"num_steps": 200, "num_images": 2}, patience=0.05),
    Kind("left in the stream", {"num_steps": 200}, accept="text/event-stream", patience=0.05),
    Kind("late", {"num_steps": 500, "deadline_ms": 20}),
    Kind("refused when busy", {"num_steps": 1, "num_images": LIMIT}),
    Kind("unknown class", {"class_label": "eleven"}),
    Kind("out of range", {"num_steps": -1}),
)


@dataclass(frozen=True)
class Left:
    """What a server holds after a number of requests."""

    requests: int
    busy: float
    footprint: metrics.Footprint


async def leftovers(
    server: Server, process: int, requests: int
) -> tuple[list[Left], Mapping[str, Counter[str]]]:
    """Send requests of every kind; look after every portion. Also return how each kind went."""
    found: list[Left] = []
    outcomes: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
    for portion in range(requests // PORTION):
        numbers = iter(range(portion * PORTION, (portion + 1) * PORTION))
        async with _session() as session:
            clients = (_sender(session, server.url, numbers, outcomes) for _ in range(32))
            await asyncio.gather(*clients)
        samples = metrics.settled(server.url)
        busy = sum(samples[name] for name in metrics.BUSY)
        found.append(Left((portion + 1) * PORTION, busy, metrics.Footprint.of(process)))
    return found, outcomes


async def _sender(
    session: aiohttp.ClientSession,
    url: str,
    numbers: Iterator[int],
    outcomes: Mapping[str, Counter[str]],
) -> None:
    for number in numbers:
        kind = KINDS[number % len(KINDS)]
        body, outcome = {"class_label": number % 10, "seed": number} | dict(kind.body), "left"
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(kind.patience),
                session.post(url, json=body, headers={"Accept": kind.accept}) as response,
            ):
                outcome = str(response.status)
                async for _ in response.content.iter_any():
                    pass
        outcomes[kind.name][outcome] += 1


def main(
    quick: bool = False, repetitions: int = 5, seconds: float = 10.0, requests: int = 10_000
) -> None:
    """Measure both parts."""
    systems.prepare()
    pin_client()
    if quick:
        repetitions, seconds, requests = 1, 4.0, 4 * PORTION
    with serving(systems.product("left")) as server:
        expected = asyncio.run(expected_seconds(server, seconds))
        saved = [
            asyncio.run(savings(server, expected, seconds, repetition))
            for repetition in range(repetitions)
        ]
    limited = systems.product("leaking", GENERATOR__MAX_WAITING_IMAGES=str(LIMIT))
    with serving(limited) as server:
        found, outcomes = asyncio.run(leftovers(server, server.process, requests))
    save(_result(saved, found, outcomes), systems.results(quick=quick))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=120),
    )


def _result(
    saved: Sequence[Savings], found: Sequence[Left], outcomes: Mapping[str, Counter[str]]
) -> Result:
    settled = min(SETTLED_AFTER, len(found) - 1)
    base, end = found[settled - 1].footprint, found[-1].footprint
    claims = [
        Claim(
            "evaluations saved, of those no longer needed",
            [s.share for s in saved],
            "at least",
            0.9,
        ),
        Claim("rows and images left behind", [left.busy for left in found], "at most", 0.0),
        Claim(
            f"private memory, last portion against portion {settled}",
            [end.private_bytes / base.private_bytes],
            "at most",
            1.05,
        ),
        Claim("open files, likewise", [end.files / base.files], "at most", 1.05),
        Claim("threads, likewise", [end.threads / base.threads], "at most", 1.1),
    ]
    memory = [left.footprint.private_bytes / 2**20 for left in found]
    counts = [left.requests for left in found]
    slope = PORTION * float(np.polyfit(counts[settled - 1 :], memory[settled - 1 :], 1)[0])
    return Result(
        name="cancellation",
        title="Clients who leave",
        setting=SETTING,
        claims=claims,
        tables=[_savings(saved), _kinds(outcomes), _leftovers(found, settled, slope)],
        plots=[Plot("Private memory", "requests", "MiB", {"server": (counts, memory)})],
        raw={
            "saved": [vars(s) for s in saved],
            "left": [{**vars(left), "footprint": vars(left.footprint)} for left in found],
        },
    )


def _savings(saved: Sequence[Savings]) -> Table:
    def spread(values: Sequence[float]) -> str:
        return str(Spread.of(values))

    rows = [
        ["requests left", spread([s.left for s in saved])],
        ["requests answered", spread([s.answered for s in saved])],
        ["evaluations they asked for", spread([s.asked for s in saved])],
        ["made when the clients left", spread([s.behind for s in saved])],
        ["made in all", spread([s.made for s in saved])],
        ["counted as wasted by the engine", spread([s.wasted for s in saved])],
        [
            "made after a client left, per image",
            spread([(s.made - s.behind) / s.rows for s in saved]),
        ],
    ]
    return Table("Row evaluations of the requests that were left", ["", ""], rows)


def _kinds(outcomes: Mapping[str, Counter[str]]) -> Table:
    rows = [
        [name, ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))]
        for name, counts in outcomes.items()
    ]
    return Table("How the requests of each kind ended", ["kind", "status: requests"], rows)


def _leftovers(found: Sequence[Left], settled: int, slope: float) -> Table:
    rows: list[list[str | float]] = [
        [
            str(left.requests),
            left.busy,
            left.footprint.private_bytes / 2**20,
            str(left.footprint.files),
            str(left.footprint.threads),
        ]
        for left in found
    ]
    title = (
        f"Left behind; after portion {settled} memory grows by {slope:.3f} MiB per {PORTION} "
        "requests"
    )
    return Table(title, ["requests", "rows and images", "private MiB", "files", "threads"], rows)


if __name__ == "__main__":
    typer.run(main)
