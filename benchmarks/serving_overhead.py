"""What serving adds to the engine: one image, one client, from the last byte sent to the last read.

The engine alone (`EngineHost` in this process, task to last image) is compared with the same
evaluations asked for over HTTP: in one process, and through the bank service and Triton. Whatever
serves has one core and the client has the other. ``GET /livez`` is for context: a FastAPI route
that does nothing, on the same server. The client is a bare socket: the usual ones take as long as
the front end.

Run: ``python -m benchmarks.serving_overhead``; ``--quick`` for a glance.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import typer
from prometheus_client import CollectorRegistry

from benchmarks.harness.interleave import Spread, interleaved, ratios
from benchmarks.harness.report import Claim, Result, Table, save
from benchmarks.harness.servers import CLIENT_CORE, SERVER_CORE
from benchmarks.harness.systems import STORE, results
from gmem_generator.stopwatch import STAGES
from gmem_model.engine.host import EngineHost
from gmem_shared.errors import GmemError
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from gmem_shared.types import GeneratedImage, GenerationTask
from tests.support.stack import Stack, running_stack

STEPS = (8, 16, 25, 50)
GOALS = {"embedded": 1.10, "distributed": 1.25}
SAMPLER = "ab2"
MODEL = "digits@production"
SNIPPET = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)


@dataclass
class Sample:
    """One side in one repetition: seconds of each request, and what the server said of them."""

    seconds: list[float] = field(default_factory=list)
    timings_ms: list[dict[str, float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of one request."""
        return statistics.median(self.seconds)

    def stage(self, name: str) -> float:
        """Milliseconds of one stage, or of the total."""
        return statistics.median(timings[name] for timings in self.timings_ms)

    @property
    def coverage(self) -> float:
        """The stages' part of the total."""
        return statistics.median(
            sum(timings[stage] for stage in STAGES) / timings["total"]
            for timings in self.timings_ms
        )


class Client:
    """A connection that is kept; the server closes it after some seconds of silence."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request and return the content of the answer, which must be a 200."""
        self._socket.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: front\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        received = b""
        while not _is_complete(received):
            part = self._socket.recv(1 << 16)
            assert part, "the server closed the connection"
            received += part
        head, _, content = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), received
        return content


def _is_complete(received: bytes) -> bool:
    head, end, content = received.partition(b"\r\n\r\n")
    if not end:
        return False
    (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return len(content) >= int(length.partition(b":")[2])


class Waiter:
    """A listener that waits for the end of its task."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def image(self, image: GeneratedImage) -> None:
        """Ignore the image."""

    def done(self) -> None:
        """End the wait."""
        self.over.set()

    def failed(self, error: GmemError) -> None:
        """Stop the benchmark: a failure would make it look fast."""
        raise AssertionError(error.detail)


@contextmanager
def engine(store: Path) -> Iterator[EngineHost]:
    """The engine alone, loaded, its threads on the servers' core."""
    os.sched_setaffinity(0, {SERVER_CORE})
    settings = Settings()
    host = EngineHost(
        Store.from_url(str(store), settings.store.cache_dir),
        settings.engine,
        poll_seconds=settings.store.poll_seconds,
        default_model=MODEL,
        registry=CollectorRegistry(),
    )
    host.start()
    ask_engine(host, STEPS[0], 1)  # loads
    os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        yield host
    finally:
        host.close()


_numbers = itertools.count()


def ask_engine(host: EngineHost, steps: int, requests: int) -> Sample:
    sample = Sample()
    encoder = host.describe(MODEL).encoder
    for number in itertools.islice(_numbers, requests):
        task = GenerationTask(
            id=str(number),
            model=MODEL,
            snippets=SNIPPET,
            encoder=encoder,
            seeds=np.array([number], np.uint64),
            indices=np.zeros(1, np.int64),
            sampler=SAMPLER,
            num_steps=steps,
        )
        waiter = Waiter()
        started = time.perf_counter()
        if not host.offer(task, waiter):
            host.submit(task, waiter)
        assert waiter.over.wait(60)
        sample.seconds.append(time.perf_counter() - started)
    return sample


def ask_front_end(url: str, steps: int, requests: int) -> Sample:
    sample, client = Sample(), Client(url)
    for number in itertools.islice(_numbers, requests):
        request = {"class_label": 7, "seed": number, "num_steps": steps, "sampler": SAMPLER}
        body = json.dumps(request).encode()
        started = time.perf_counter()
        answer = client.call("POST", "/generate", body)
        sample.seconds.append(time.perf_counter() - started)
        sample.timings_ms.append(json.loads(answer)["timings_ms"])
    return sample


def ask_nothing(url: str, requests: int) -> Sample:
    sample, client = Sample(), Client(url)
    for _ in range(requests):
        started = time.perf_counter()
        client.call("GET", "/livez")
        sample.seconds.append(time.perf_counter() - started)
    return sample


@contextmanager
def front_end(store: Path, *, embedded: bool) -> Iterator[Stack]:
    """The product's processes on one core."""
    os.sched_setaffinity(0, {SERVER_CORE})
    with (
        tempfile.TemporaryDirectory() as directory,
        running_stack(
            str(store), Path(directory), embedded=embedded, GMEM_STORE__POLL_SECONDS="2"
        ) as stack,
    ):
        os.sched_setaffinity(0, {CLIENT_CORE})
        yield stack


def measure(
    store: Path, requests: int, repetitions: int
) -> tuple[dict[tuple[str, int], list[Sample]], list[Sample]]:
    """Return the samples of every side and number of steps, and those of the empty route."""
    with ExitStack() as stack:
        urls = {
            side: stack.enter_context(front_end(store, embedded=side == "embedded")).url
            for side in GOALS
        }
        host = stack.enter_context(engine(store))
        sides: dict[tuple[str, int], Callable[[int], Sample]] = {}
        for steps in STEPS:
            sides["engine", steps] = lambda _, s=steps: ask_engine(host, s, requests)
            for side, url in urls.items():
                sides[side, steps] = lambda _, s=steps, u=url: ask_front_end(u, s, requests)
        sides["empty route", 0] = lambda _: ask_nothing(urls["embedded"], requests)
        samples = interleaved(sides, repetitions)
    return samples, samples.pop(("empty route", 0))


def report(samples: dict[tuple[str, int], list[Sample]], empty: list[Sample]) -> Result:
    """Compare, and divide by stages."""
    medians = {key: [sample.median for sample in found] for key, found in samples.items()}
    claims, times, shares = [], [], []
    for side, goal in GOALS.items():
        for steps in STEPS:
            ratio = ratios(medians[side, steps], medians["engine", steps])
            claims.append(Claim(f"{side}, {steps} steps / engine", ratio, "at most", goal))
        coverage = [sample.coverage for steps in STEPS for sample in samples[side, steps]]
        claims.append(Claim(f"{side}: stages / total", coverage, "at least", 0.95))
        claims.append(Claim(f"{side}: stages / total", coverage, "at most", 1.05))
    for steps in STEPS:
        row = [_ms(medians[side, steps]) for side in ("engine", *GOALS)]
        times.append([str(steps), *row])
    for side, steps in itertools.product(GOALS, STEPS):
        found = samples[side, steps]
        stages = [statistics.median(sample.stage(name) for sample in found) for name in STAGES]
        total = statistics.median(sample.stage("total") for sample in found)
        seen = 1000 * statistics.median(medians[side, steps])
        shares.append([f"{side}, {steps} steps", *stages, total, seen - total])
    return Result(
        name="serving_overhead",
        title="What serving adds to the engine",
        setting=(
            "One client, one image, digits network, `ab2`. Milliseconds from the last byte sent to "
            "the last byte read; the engine alone from task to last image, in this process. An "
            f"empty FastAPI route of the same server: {_ms([s.median for s in empty])} ms."
        ),
        claims=claims,
        tables=[
            Table("Milliseconds", ["steps", "engine", *GOALS], times),
            Table("Where they go, ms", ["", *STAGES, "total", "HTTP"], shares),
        ],
        raw={f"{side}, {steps} steps": found for (side, steps), found in medians.items()},
    )


def _ms(seconds: list[float]) -> str:
    return str(Spread.of([1000 * value for value in seconds]))


def main(
    quick: bool = False, requests: int = 100, repetitions: int = 7, store: Path = STORE
) -> None:
    """Measure all sides in turn and print the ratios."""
    train = ["train", "--preset", "digits", "--if-missing", "--store", str(store)]
    subprocess.run([sys.executable, "-m", "gmem_shared", *train], check=True)
    if quick:
        requests, repetitions = 20, 3
    save(report(*measure(store.resolve(), requests, repetitions)), results(quick=quick))


if __name__ == "__main__":
    typer.run(main)
