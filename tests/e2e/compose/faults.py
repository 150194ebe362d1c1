"""A fault under load, and the verdict on how the product took it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.load import Load

CLIENTS = 8
DEADLINE_MS = 10_000
STEADY_SECONDS = 3.0
"""Without a failure so long, the product counts as recovered."""

HONEST = {429, 503, 504}
"""Answers that say what is wrong and when to come back."""


@dataclass
class Verdict:
    """What the clients saw of one fault."""

    fault: str
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    outage_seconds: float = 0.0
    """from the first failure to the first answer after the last, 0 without one"""

    @property
    def failed(self) -> int:
        return sum(self.statuses.values()) - self.statuses[200]

    def line(self, lost: int) -> tuple[str, ...]:
        refused = ", ".join(
            f"{n} x {s or 'no answer'}" for s, n in sorted(self.statuses.items()) if s != 200
        )
        return (
            self.fault, str(self.statuses[200]), refused or "none", f"{self.slowest_seconds:.1f}",
            f"{self.outage_seconds:.1f}", str(lost),
        )  # fmt: skip


class Clients:
    """Eight clients on a thread of their own, so that faults can be made beside them."""

    def __init__(self, url: str) -> None:
        request = {"num_steps": 25, "deadline_ms": DEADLINE_MS}
        self._load = Load(url, CLIENTS, request, heed=True)
        self._begun = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        async with self._load:
            self._begun.set()
            await asyncio.to_thread(self._stop.wait)

    def start(self) -> None:
        self._thread.start()
        self._begun.wait()
        self.wait(lambda: len(self._load.answers) >= 20, "the load runs", 30)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}; {self.failures()}"
            time.sleep(0.05)

    def failures(self) -> Counter[tuple[int, str]]:
        return Counter((status, _code(text)) for status, text in self._load.failures)

    def recovered(self, since: float) -> bool:
        """Whether for a while, all of it after a moment, there were answers and no failure."""
        begin = time.monotonic() - STEADY_SECONDS
        recent = [status for _, end, status in self._load.ends[-2000:] if end > begin]
        return begin > since and len(recent) >= CLIENTS and set(recent) == {200}

    def judge(self, fault: str, begin: float) -> Verdict:
        requests = [r for r in list(self._load.ends) if r[1] >= begin]
        verdict = Verdict(fault, Counter(status for *_, status in requests))
        verdict.slowest_seconds = max(ended - began for began, ended, _ in requests)
        failed = [ended for _, ended, status in requests if status != 200]
        if failed:
            good = (e for _, e, status in requests if status == 200 and e > max(failed))
            verdict.outage_seconds = min(good, default=time.monotonic()) - min(failed)
        return verdict


@contextmanager
def under_load(url: str, fault: str, seconds: float = 120.0) -> Iterator[list[Verdict]]:
    """Run the block as a fault; then wait for recovery. The list holds the verdict afterwards.

    Args:
        seconds: How long recovery may take before the test fails.
    """
    clients = Clients(url)
    found: list[Verdict] = []
    clients.start()
    try:
        begin = time.monotonic()
        yield found
        end = time.monotonic()
        clients.wait(lambda: clients.recovered(end), f"recovery from: {fault}", seconds)
    finally:
        clients.stop()
    found.append(clients.judge(fault, begin))
    unexplained = {
        key: n for key, n in clients.failures().items() if key[0] and key[0] not in HONEST
    }
    assert not unexplained, unexplained


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["code"])
    except (ValueError, KeyError, TypeError):
        return text[:80]
