"""What a worker does with parts that nothing good can be said of."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

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

CLAIM_SECONDS = 0.4


class Maker:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.failures: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()

    async def part(self, job: Job, request: GenerateRequest, number: int) -> bool:
        self.parts.append(number)
        await self.open.wait()
        if self.failures:
            raise self.failures.pop()
        return True

    async def result(self, job: Job) -> bool:
        return True

    async def clear(self, job: Job) -> None:
        raise StorageError("the store does not answer")


class Store(Results):
    """Does not let go of some jobs, and hangs while it is closed."""

    def __init__(self) -> None:
        super().__init__(StoreSettings(url="memory://worker"))
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []
        self.stuck: set[str] = set()

    def delete(self, job: str) -> None:
        self.asked.append(job)
        self.open.wait()
        if job in self.stuck:
            raise StorageError("the store does not answer")


class Bench:
    """A worker, and what it works on."""

    def __init__(self) -> None:
        settings = JobsSettings(part_images=8, concurrency=1, claim_seconds=CLAIM_SECONDS)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.maker = Maker()
        self.connection = Connection(RedisSettings(), metrics)
        self.connection.block_ms = 50
        self.queue = Queue(self.connection, CLAIM_SECONDS, time.monotonic)
        self.board = Board(self.connection, self.queue, settings, metrics, lambda: self.now)
        self.store = Store()
        self.worker = Worker(
            self.board,
            self.queue,
            self.maker,
            self.store,
            connection=self.connection,
            drain=Drain(),
            admission=Admission(64, metrics, time.monotonic),
            metrics=metrics,
            settings=settings,
        )

    async def submit(self, job_id: str = "j") -> Entry:
        """Submit a job of one part, and take that before the worker does."""
        job = Job(
            id=job_id, owner="o", images=8, part_images=8, bank=None, created=self.now,
            model=Version(name="digits", seq=1, digest="sha256-0"),
        )  # fmt: skip
        await self.board.submit(job, GenerateRequest(num_images=8, seed=1))
        while (entry := await self.queue.take()) is None:
            pass
        return entry

    async def outdate(self, *job_ids: str) -> None:
        """Submit jobs that ended long ago."""
        for job_id in job_ids:
            entry = await self.submit(job_id)
            await self.board.cancel(job_id, "o")
            await self.board.begin(entry)
        self.now += timedelta(days=30)

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
    bench.store.open.set()
    await bench.worker.close()
    await bench.connection.close()


async def test_a_part_that_ended_its_workers_ends_its_job_and_no_further_one(bench) -> None:
    entry = await bench.submit()
    await bench.queue.put_back(entry, attempt=4)
    bench.worker.start()
    job = await bench.outcome()
    assert (job.status, job.problem["code"]) == ("failed", "internal")
    assert "workers ended" in job.problem["detail"]
    assert bench.maker.parts == []


async def test_a_part_of_a_job_that_is_gone_is_dropped(bench) -> None:
    entry = await bench.submit()
    async with bench.connection.calling() as redis:
        await redis.delete("gmem:job:j")
    await bench.queue.put_back(entry, attempt=1)
    bench.worker.start()
    await eventually(lambda: bench.count("dropped"))
    assert (bench.maker.parts, await bench.queue.length()) == ([], 0)


@pytest.mark.parametrize(("field", "added"), [("request", {"hue": 0.5}), ("state", {"format": 2})])
async def test_a_part_of_a_newer_release_is_left_to_its_front_ends(bench, field, added) -> None:
    await bench.queue.put_back(await bench.submit(), attempt=1)
    async with bench.connection.calling() as redis:
        known = await redis.hget("gmem:job:j", field)
        await redis.hset("gmem:job:j", field, json.dumps(json.loads(known) | added))
        bench.worker.start()
        await eventually(lambda: bench.count("put_off"))
        assert (bench.maker.parts, await bench.queue.length()) == ([], 1)
        await redis.hset("gmem:job:j", field, known)
    assert (await bench.outcome()).status == "succeeded"


async def test_a_defect_of_ours_is_a_problem_without_its_details(bench) -> None:
    bench.maker.failures = [ValueError("secret")] * 3
    await bench.queue.put_back(await bench.submit(), attempt=1)
    bench.worker.start()
    job = await bench.outcome()
    assert (job.problem["code"], bench.maker.parts) == ("internal", [0, 0, 0])
    assert "secret" not in str(job.problem)
    assert (bench.count("retried"), bench.count("failed")) == (2, 1)


async def test_parts_that_cannot_be_deleted_do_not_fail_their_job(bench, logged) -> None:
    await bench.queue.put_back(await bench.submit(), attempt=1)
    bench.worker.start()
    assert (await bench.outcome()).status == "succeeded"
    await eventually(lambda: bench.count("made") == 2)  # the part, and what puts all together
    assert [entry["event"] for entry in logged] == ["job.ended"]


async def test_a_store_that_hangs_does_not_cost_a_healthy_part_its_worker(bench) -> None:
    await bench.outdate("old")
    bench.store.open.clear()
    bench.maker.open.clear()
    await bench.queue.put_back(await bench.submit(), attempt=1)
    bench.worker.start()
    await eventually(lambda: bench.store.asked and bench.maker.parts)
    until = time.monotonic() + 3 * CLAIM_SECONDS
    while time.monotonic() < until:
        assert await bench.queue.take() is None
    bench.maker.open.set()
    assert (await bench.outcome()).status == "succeeded"
    assert bench.maker.parts == [0]


async def test_a_job_that_cannot_be_deleted_keeps_no_other_from_it(bench, logged) -> None:
    await bench.outdate("stuck", "free")
    bench.store.stuck = {"stuck"}
    bench.worker.start()
    while await bench.board.outdated() != ["stuck"]:  # noqa: ASYNC110 (it is asked)
        await asyncio.sleep(0.01)
    await eventually(lambda: len(bench.store.asked) == 2)
    warned = [entry["event"] for entry in logged if entry["log_level"] != "info"]
    assert warned == ["job.delete.failed"]
