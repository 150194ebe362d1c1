"""Clients that generate without pause."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Load:
    """``clients`` concurrent clients, each sending its next request when the last was answered."""

    url: str
    clients: int = 8
    request: dict[str, Any] = field(default_factory=dict)
    heed: bool = False
    """whether a client that is told when to come back waits so long, a second at most"""
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    ends: list[tuple[float, float, int]] = field(default_factory=list)
    """of each request: when it began and ended (``time.monotonic``), and its status, 0 for none"""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self._tasks = [asyncio.create_task(self._client(i)) for i in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._session.close()

    async def answered(self, count: int) -> None:
        """Wait until that many more answers (or failures) have come."""
        async with self._progress:
            goal = self._total() + count
            await self._progress.wait_for(lambda: self._total() >= goal)

    def _total(self) -> int:
        return len(self.answers) + len(self.failures)

    async def _client(self, number: int) -> None:
        sent = 0
        while not self._stop.is_set():
            body = {"class_label": number % 10, "seed": number * 100_000 + sent, **self.request}
            sent += 1
            begin, status, wait = time.monotonic(), 0, 0.0
            try:
                async with self._session.post(f"{self.url}/generate", json=body) as answer:
                    status = answer.status
                    if status == 200:
                        self.answers.append(await answer.json())
                    else:
                        self.failures.append((status, await answer.text()))
                        wait = float(answer.headers.get("Retry-After", 0))
            except (aiohttp.ClientError, TimeoutError) as error:
                status = 0
                self.failures.append((0, repr(error)))
            self.ends.append((begin, time.monotonic(), status))
            if self.heed:
                await asyncio.sleep(min(wait, 1.0) if status else 0.1)
            async with self._progress:
                self._progress.notify_all()
