"""What a worker does with parts that nothing good can be said of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from gmem_generator.admission import Admission
from gmem_generator.jobs.board import Board
from gmem_generator.jobs.connection import Connection
from gmem_generator.jobs.queue import Entry, Queue
from gmem_generator.jobs.record import Job
from gmem_generator.jobs.worker import Worker
from gmem_generator.lifecycle import Drain
from gmem_generator.metrics import Metrics
from gmem_generator.schemas import GenerateRequest, Version
from gmem_shared.errors import StorageError
from gmem_shared.settings import JobsSettings, RedisSettings, StoreSettings
from gmem_shared.store import Results
from tests.support.front import eventually


class Maker:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.failures: list[Exception] = []

    async def part(self, job: Job, request: GenerateRequest, number: int) -> bool:
        self.parts.append(number)
        if self.failures:
            raise self.failures.pop()
        return True

    async def result(self, job: Job) -> bool:
        return True

    async def clear(self, job: Job) -> None:
        raise StorageError("the store does not answer")


class Bench:
    """A worker, and what it works on."""

    def __init__(self) -> None:
        settings = JobsSettings(part_images=8, concurrency=1)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.maker = Maker()
        self.connection = Connection(RedisSettings(), metrics)
        self.queue = Queue(self.connection, 30.0, time.monotonic)
        self.board = Board(self.connection, self.queue, settings, lambda: datetime.now(UTC))
        self.worker = Worker(
            self.board,
            self.queue,
            self.maker,
            Results(StoreSettings(url="memory://worker")),
            connection=self.connection,
            drain=Drain(),
            admission=Admission(64, metrics, time.monotonic),
            metrics=metrics,
            settings=settings,
            clock=time.monotonic,
        )

    async def submit(self) -> Entry:
        """Submit a job of one part, and take that before the worker does."""
        job = Job(
            id="j", owner="o", images=8, part_images=8, bank=None, created=datetime.now(UTC),
            model=Version(name="digits", seq=1, digest="sha256-0"),
        )  # fmt: skip
        await self.board.submit(job, GenerateRequest(num_images=8, seed=1))
        while (entry := await self.queue.take()) is None:
            pass
        return entry

    async def outcome(self) -> Job:
        while (job := await self.board.read("j")).ended is None:  # noqa: ASYNC110 (it is asked)
            await asyncio.sleep(0.01)
        return job

    def count(self, outcome: str) -> float | None:
        return self.registry.get_sample_value(
            "gmem_generator_job_parts_total", {"outcome": outcome}
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.worker.close()
    await bench.connection.close()


async def test_a_part_that_ended_its_workers_ends_its_job_and_no_further_one(bench) -> None:
    entry = await bench.submit()
    await bench.board.put_back(entry, attempt=4)
    bench.worker.start()
    job = await bench.outcome()
    assert (job.status, job.problem["code"]) == ("failed", "internal")
    assert "workers ended" in job.problem["detail"]
    assert bench.maker.parts == []


async def test_a_part_of_a_job_that_is_gone_is_dropped(bench) -> None:
    entry = await bench.submit()
    async with bench.connection.calling() as redis:
        await redis.delete("gmem:job:j")
    await bench.board.put_back(entry, attempt=1)
    bench.worker.start()
    await eventually(lambda: bench.count("dropped"))
    assert (bench.maker.parts, await bench.queue.length()) == ([], 0)


async def test_a_defect_of_ours_is_a_problem_without_its_details(bench) -> None:
    bench.maker.failures = [ValueError("secret")] * 3
    await bench.board.put_back(await bench.submit(), attempt=1)
    bench.worker.start()
    job = await bench.outcome()
    assert (job.problem["code"], bench.maker.parts) == ("internal", [0, 0, 0])
    assert "secret" not in str(job.problem)
    assert (bench.count("retried"), bench.count("failed")) == (2, 1)


async def test_parts_that_cannot_be_deleted_do_not_fail_their_job(bench) -> None:
    await bench.board.put_back(await bench.submit(), attempt=1)
    bench.worker.start()
    assert (await bench.outcome()).status == "succeeded"
