"""A running server seen through its ``/metrics`` and its processes."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin

import aiohttp
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_SECONDS = 60.0

Samples = defaultdict[str, float]
"""Metric name, without labels, to the sum over its labels; 0 for what was never counted."""


def parse(text: str) -> Samples:
    """Read an exposition."""
    samples: Samples = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name] += sample.value
    return samples


def read(url: str) -> Samples:
    """Return the metrics of the server behind a URL."""
    with urllib.request.urlopen(urljoin(url, "/metrics"), timeout=30) as answer:  # noqa: S310
        return parse(answer.read().decode())


def settled(url: str) -> Samples:
    """Return the metrics once nothing is being worked on, or after a minute."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        samples = read(url)
        if not any(samples[name] for name in BUSY) or time.monotonic() > until:
            return samples
        time.sleep(0.05)


BUSY = ("gmem_engine_rows_running", "gmem_engine_rows_waiting", "gmem_generator_images_waiting")
"""Zero when the server has nothing to do."""


@dataclass
class EvaluationClock:
    """How many evaluations the engine had made at any moment: a row in the batch makes each."""

    moments: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def watching(
        self, session: aiohttp.ClientSession, url: str, seconds: float = 0.1
    ) -> AsyncIterator[None]:
        """Look every so many seconds during the block."""
        watcher = asyncio.create_task(self._watch(session, urljoin(url, "/metrics"), seconds))
        await asyncio.sleep(2 * seconds)
        try:
            yield
        finally:
            await asyncio.sleep(2 * seconds)
            watcher.cancel()

    def between(self, start: float, end: float) -> float:
        """Return the evaluations between two moments of `time.perf_counter`."""
        first, last = np.interp([start, end], self.moments, self.counts)
        return float(last - first)

    async def _watch(self, session: aiohttp.ClientSession, url: str, seconds: float) -> None:
        while True:
            asked = time.perf_counter()
            async with session.get(url) as answer:
                samples = parse(await answer.text())
            self.moments.append((asked + time.perf_counter()) / 2)
            self.counts.append(samples["gmem_engine_evaluation_seconds_count"])
            await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Footprint:
    """What a server and its children hold."""

    private_bytes: int
    files: int
    threads: int

    @classmethod
    def of(cls, process: int) -> Footprint:
        """Look at a process and everything it started."""
        parent = psutil.Process(process)
        family = [parent, *parent.children(recursive=True)]
        return cls(
            sum(member.memory_full_info().uss for member in family),
            sum(member.num_fds() for member in family),
            sum(member.num_threads() for member in family),
        )
