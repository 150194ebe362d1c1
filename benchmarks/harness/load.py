"""Clients: an open loop with given arrivals, and a closed loop of given width.

The bodies are encoded before a run and answers are read but not parsed: the client must not be
what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import numpy as np

TIMEOUT_SECONDS = 120.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times are seconds since the run began.

    Attributes:
        number: Which body was sent: bodies are sent in turn, again and again.
        scheduled: When it was to be sent. An overloaded client sends late, and its delay counts.
        sent, ended: When it was sent, when the answer had been read.
        status: HTTP status; 0 when the connection failed or the client's patience ended.
        retry_after: Seconds that the answer asked to wait.
        answer: The body, unparsed.
    """

    number: int
    scheduled: float
    sent: float
    ended: float
    status: int
    retry_after: float | None = None
    answer: bytes = field(default=b"", repr=False)

    @property
    def latency(self) -> float:
        """Seconds from the scheduled time to the end of the answer."""
        return self.ended - self.scheduled

    @property
    def ok(self) -> bool:
        """Whether the images came."""
        return self.status == 200


def open_loop(url: str, bodies: Sequence[bytes], arrivals: Iterable[float]) -> list[Outcome]:
    """Send one body at each arrival time, whether or not earlier ones were answered."""
    return _run(url, bodies, lambda client: client.at_each(arrivals, client.send))


def patient_open_loop(
    url: str, bodies: Sequence[bytes], arrivals: Iterable[float]
) -> list[list[Outcome]]:
    """As `open_loop`, by clients who wait as long as a 429 says and then try once more.

    Returns:
        The one or two tries of each request.
    """
    return _run(url, bodies, lambda client: client.at_each(arrivals, client.send_patiently))


def closed_loop(url: str, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Outcome]:
    """Keep ``clients`` requests in flight for that long; return those that were sent in time."""

    async def run(client: _Client) -> list[Outcome]:
        numbers = itertools.count()
        runs = await asyncio.gather(*(client.repeat(numbers, seconds) for _ in range(clients)))
        return [outcome for outcomes in runs for outcome in outcomes]

    return _run(url, bodies, run)


def throughput(
    outcomes: Sequence[Outcome], start: float, end: float, work: Sequence[float] = (1,)
) -> float:
    """Return the work per second of the requests that were answered with images in [start, end).

    ``work`` is what each body asks for; by default requests are counted.
    """
    done = [o.number for o in outcomes if o.ok and start <= o.ended < end]
    return sum(work[number % len(work)] for number in done) / (end - start)


def latency_ms(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return p50, p90, p95 and p99 in milliseconds.

    Raises:
        AssertionError: A request failed, which would make the server look fast.
    """
    failed = [outcome for outcome in outcomes if not outcome.ok]
    assert not failed, f"{len(failed)} of {len(outcomes)} requests failed: {failed[0]}"
    values = np.percentile([1000 * o.latency for o in outcomes], [50, 90, 95, 99])
    return dict(zip(("p50", "p90", "p95", "p99"), values.tolist(), strict=True))


class _Client:
    """Sends bodies over kept-alive connections, as many as needed."""

    def __init__(self, session: aiohttp.ClientSession, url: str, bodies: Sequence[bytes]) -> None:
        self._session = session
        self._url = url
        self._bodies = bodies
        self._started = time.perf_counter()

    async def at_each(
        self, arrivals: Iterable[float], send: Callable[[int, float], Coroutine[None, None, T]]
    ) -> list[T]:
        sending = []
        for number, scheduled in enumerate(arrivals):
            await self._sleep_until(scheduled)
            sending.append(asyncio.create_task(send(number, scheduled)))
        return list(await asyncio.gather(*sending))

    async def repeat(self, numbers: Iterator[int], seconds: float) -> list[Outcome]:
        outcomes = []
        while (now := self._now()) < seconds:
            outcomes.append(await self.send(next(numbers), now))
        return outcomes

    async def send_patiently(self, number: int, scheduled: float) -> list[Outcome]:
        first = await self.send(number, scheduled)
        if first.status != 429 or first.retry_after is None:
            return [first]
        again = first.ended + first.retry_after
        await self._sleep_until(again)
        return [first, await self.send(number, again)]

    async def send(self, number: int, scheduled: float) -> Outcome:
        body = self._bodies[number % len(self._bodies)]
        sent, status, retry_after, answer = self._now(), 0, None, b""
        try:
            async with self._session.post(self._url, data=body) as response:
                answer = await response.read()
                status = response.status
                if header := response.headers.get("Retry-After"):
                    retry_after = float(header)
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        return Outcome(number, scheduled, sent, self._now(), status, retry_after, answer)

    def _now(self) -> float:
        return time.perf_counter() - self._started

    async def _sleep_until(self, moment: float) -> None:
        if (seconds := moment - self._now()) > 0:
            await asyncio.sleep(seconds)


def _run(
    url: str, bodies: Sequence[bytes], use: Callable[[_Client], Coroutine[None, None, T]]
) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Content-Type": "application/json"},
        ) as session:
            return await use(_Client(session, url, bodies))

    return asyncio.run(run())
