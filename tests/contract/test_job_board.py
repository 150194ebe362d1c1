"""Jobs on Redis: the same promises by a real server and by the stand-in within the process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from gmem_generator.jobs.board import Board, Note
from gmem_generator.jobs.connection import Connection
from gmem_generator.jobs.queue import ASSEMBLY, Entry, Queue
from gmem_generator.jobs.record import Job
from gmem_generator.metrics import Metrics
from gmem_generator.schemas import GenerateRequest, Memory, Version
from gmem_shared.errors import ConflictError, OverloadedError, OverQuotaError, UnknownJobError
from gmem_shared.settings import JobsSettings, RedisSettings
from tests.support.redis import Line, bad_line

pytestmark = pytest.mark.usefixtures("quiet")

REQUEST = GenerateRequest(num_images=40, seed=1, memory=Memory(rows=[3, 4]))
CLAIM_SECONDS = 0.2


class Office:
    """A front end's view of Redis."""

    def __init__(self, url: str, **settings: object) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        jobs = JobsSettings(part_images=8, parallel_parts=2, **settings)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.connection = Connection(RedisSettings(url=url, timeout_seconds=0.5), metrics)
        self.connection.block_ms = 50
        ticks = itertools.count()
        self.queue = Queue(self.connection, CLAIM_SECONDS, lambda: float(next(ticks)))
        self.board = Board(self.connection, self.queue, jobs, metrics, lambda: self.now)

    async def submit(
        self,
        job_id: str = "j",
        owner: str = "o",
        note: Note | None = None,
        request: GenerateRequest = REQUEST,
    ) -> None:
        model = Version(name="digits", seq=1, digest="sha256-0")
        job = Job(
            id=job_id, owner=owner, images=40, part_images=8, model=model, bank=None,
            created=self.now,
        )  # fmt: skip
        self.known = await self.board.submit(job, request, note)

    async def take(self) -> Entry | None:
        while await self.queue.length():
            if (entry := await self.queue.take()) is not None:
                return entry
        return None

    def ends(self, status: str) -> float | None:
        return self.registry.get_sample_value("gmem_generator_jobs_total", {"event": status})

    async def drain(self) -> list[int]:
        """Make everything that is offered, and return the parts in their order."""
        made = []
        while (entry := await self.take()) is not None:
            if await self.board.begin(entry) is not None:
                made.append(entry.part)
                await self.board.finish(entry)
        return made


class Contract:
    async def test_a_job_is_its_parts_once_each_and_then_the_assembly(self, office) -> None:
        await office.submit()
        assert await office.drain() == [0, 1, 2, 3, 4, ASSEMBLY]
        job = await office.board.read("j")
        assert (job.status, job.images_done, await office.board.unfinished()) == (
            "succeeded",
            40,
            0,
        )
        assert await office.queue.length() == 0

    async def test_the_request_is_kept_as_it_was(self, office) -> None:
        await office.submit()
        assert await office.board.request("j") == REQUEST

    async def test_no_two_get_the_same_part(self, office) -> None:
        await office.submit()
        first, second = await office.take(), await office.take()
        assert {first.part, second.part} == {0, 1}

    async def test_a_part_whose_taker_is_silent_goes_to_another_and_counts(self, office) -> None:
        await office.submit()
        taken = [await office.take(), await office.take()]
        for attempt in (2, 3):
            await asyncio.sleep(1.5 * CLAIM_SECONDS)
            again = [await office.take(), await office.take()]
            assert again == [replace(entry, attempt=attempt) for entry in taken]

    async def test_a_part_whose_taker_speaks_up_stays_and_does_not_count(self, office) -> None:
        await office.submit()
        kept, lost = await office.take(), await office.take()
        for _ in range(4):
            await asyncio.sleep(CLAIM_SECONDS / 2)
            await office.queue.keep([kept])
        assert await office.take() == replace(lost, attempt=2)
        await asyncio.sleep(1.5 * CLAIM_SECONDS)
        assert {(await office.take()).part, (await office.take()).part} == {kept.part, lost.part}

    async def test_a_part_that_is_silent_is_found_behind_many_that_are_not(self, office) -> None:
        patient = Queue(office.connection, 60.0, lambda: 0.0)
        assert await patient.take() is None
        async with office.connection.calling() as redis, redis.pipeline() as pipe:
            for part in range(40):
                office.queue.add(pipe, Entry("j", 1, part))
            await pipe.execute()
        *busy, silent = [await patient.take() for _ in range(40)]
        await asyncio.sleep(1.5 * CLAIM_SECONDS)
        for _ in range(5):
            await office.queue.keep(busy)
            if (found := await office.queue.take()) is not None:
                break
        assert found == replace(silent, attempt=2)

    async def test_a_silent_taker_that_ends_at_last_leaves_nothing_to_take_over(
        self, office, monkeypatch
    ) -> None:
        await office.submit()
        await office.queue.put_back(await office.take(), attempt=1)  # the other one is first now
        late = await office.take()
        async with office.connection.calling() as redis:
            claim = redis.xautoclaim

            async def overtaken(*args: object, **more: object) -> object:
                claimed = await claim(*args, **more)
                await office.board.finish(late)
                return claimed

            await asyncio.sleep(1.5 * CLAIM_SECONDS)
            monkeypatch.setattr(redis, "xautoclaim", overtaken)
            assert (await office.queue.take()).part != late.part

    async def test_a_part_is_put_back_once(self, office) -> None:
        await office.submit()
        entry = await office.take()
        for _ in range(2):
            await office.queue.put_back(entry, attempt=2)
        assert await office.queue.length() == 2
        assert [(await office.take()).attempt for _ in range(2)] == [1, 2]

    async def test_an_end_counts_once_whoever_says_so(self, office) -> None:
        await office.submit()
        entry = await office.take()
        problem = {"code": "internal"}
        await asyncio.gather(*(office.board.fail(entry, problem) for _ in range(3)))
        await asyncio.gather(*(office.board.cancel("j", "o") for _ in range(3)))
        assert (office.ends("failed"), office.ends("cancelled")) == (1, None)
        await office.board.resume("j", "o", frozenset(range(5)))
        await office.take()  # the part that is wanted no more
        last = await office.take()
        await asyncio.gather(*(office.board.finish(last) for _ in range(3)))
        assert office.ends("succeeded") == 1

    async def test_a_part_that_is_finished_twice_counts_once(self, office) -> None:
        await office.submit()
        entry = await office.take()
        await office.board.begin(entry)
        await asyncio.gather(*(office.board.finish(entry) for _ in range(4)))
        job = await office.board.read("j")
        assert (job.images_done, job.offered) == (8, 3)
        assert sorted(await office.drain()) == [ASSEMBLY, 1, 2, 3, 4]

    async def test_parts_finished_together_are_all_counted(self, office) -> None:
        await office.submit()
        entries = [await office.take(), await office.take()]
        await asyncio.gather(*map(office.board.begin, entries))
        await asyncio.gather(*map(office.board.finish, entries))
        assert (await office.board.read("j")).images_done == 16
        assert sorted(await office.drain()) == [ASSEMBLY, 2, 3, 4]

    async def test_what_was_queued_before_a_cancellation_is_wanted_no_more(self, office) -> None:
        await office.submit()
        entry = await office.take()
        assert (await office.board.cancel("j", "o")).status == "cancelled"
        assert await office.board.begin(entry) is None
        assert await office.drain() == []
        assert await office.queue.length() == 0
        assert (await office.board.finish(entry)).images_done == 0

    async def test_a_resumed_job_makes_what_is_missing(self, office) -> None:
        await office.submit()
        late = await office.take()
        await office.board.fail(await office.take(), {"code": "internal"})
        assert (await office.board.read("j")).problem == {"code": "internal"}
        await office.board.resume("j", "o", frozenset({1, 3}))
        assert await office.board.begin(late) is None
        assert await office.drain() == [0, 2, 4, ASSEMBLY]
        with pytest.raises(ConflictError):
            await office.board.resume("j", "o", frozenset())

    async def test_a_job_of_which_all_is_stored_is_resumed_with_the_assembly(self, office) -> None:
        await office.submit()
        await office.board.cancel("j", "o")
        await office.board.resume("j", "o", frozenset(range(5)))
        assert await office.drain() == [ASSEMBLY]

    async def test_a_stop_is_told_to_whoever_listens(self, office) -> None:
        await office.submit()
        told = office.board.stopped()
        assert await anext(told) is None
        await office.board.cancel("j", "o")
        while (job_id := await anext(told)) is None:
            pass
        assert job_id == "j"
        await told.aclose()

    async def test_a_job_is_its_owners_alone(self, office) -> None:
        await office.submit("mine", "me")
        await office.submit("yours", "you")
        assert [job.id for job in (await office.board.newest("me", 0, 10))[0]] == ["mine"]
        for call in (office.board.read, office.board.cancel):
            with pytest.raises(UnknownJobError):
                await call("mine", "you")
        with pytest.raises(UnknownJobError):
            await office.board.resume("mine", "you", frozenset())

    async def test_of_many_with_one_note_one_is_written(self, office) -> None:
        await asyncio.gather(
            *(office.submit(f"job{n}", note=Note("key", f"job{n}", 60)) for n in range(8))
        )
        jobs, total = await office.board.newest("o", 0, 10)
        assert total == 1
        await office.submit("late", note=Note("key", "late", 60))
        assert office.known == jobs[0].id.encode()

    async def test_there_is_a_limit_to_unfinished_jobs(self, office) -> None:
        for n in range(3):
            await office.submit(f"job{n}")
        with pytest.raises(OverloadedError):
            await office.submit("late")
        await office.board.cancel("job0", "o")
        await office.submit("late")
        with pytest.raises(OverloadedError):
            await office.board.resume("job0", "o", frozenset())

    async def test_the_jobs_of_one_owner_take_so_much_memory_until_they_are_forgotten(
        self, office
    ) -> None:
        large = GenerateRequest(memory=Memory(exclude=[2**50 + n for n in range(65536)]))
        await office.submit("large", request=large)
        await office.board.cancel("large", "o")
        office.now += timedelta(minutes=50)
        with pytest.raises(OverQuotaError, match="memory") as refused:
            await office.submit("late", request=large)
        assert refused.value.retry_after_seconds == 600
        await office.submit("of another", "other", request=large)
        office.now += timedelta(minutes=10)
        for _ in range(2):
            assert await office.board.forget("large")
        await office.submit("late", request=large)

    async def test_a_job_is_forgotten_when_it_was_kept_long_enough(self, office) -> None:
        await office.submit()
        await office.drain()
        assert await office.board.outdated() == []
        office.now += timedelta(hours=2)
        assert await office.board.outdated() == ["j"]
        assert await office.board.outdated(skip=1) == []
        for _ in range(2):  # whoever crashed in between does it again
            assert await office.board.forget("j")
        assert await office.board.outdated() == ["j"]  # its files are still there
        await office.board.forgotten("j")
        assert await office.board.outdated() == []
        assert await office.board.newest("o", 0, 10) == ([], 0)
        with pytest.raises(UnknownJobError):
            await office.board.request("j")

    async def test_a_job_that_was_resumed_meanwhile_is_not_forgotten(self, office) -> None:
        await office.submit()
        await office.board.cancel("j", "o")
        office.now += timedelta(hours=2)
        assert await office.board.outdated() == ["j"]
        await office.board.resume("j", "o", frozenset())
        assert not await office.board.forget("j")
        await office.board.cancel("j", "o")
        assert not await office.board.forget("j")
        assert (await office.board.read("j")).status == "cancelled"

    async def test_a_queue_that_was_lost_is_made_anew(self, office) -> None:
        await office.submit()
        async with office.connection.calling() as redis:
            await redis.flushall()
        assert await office.queue.take() is None
        await office.submit()
        assert len(await office.drain()) == 6

    async def test_a_part_of_a_queue_that_was_lost_is_kept_and_put_back_in_vain(
        self, office
    ) -> None:
        await office.submit()
        entry = await office.take()
        async with office.connection.calling() as redis:
            await redis.flushall()
        await office.queue.keep([entry])
        await office.queue.put_back(entry, attempt=1)
        assert await office.queue.length() == 0


class TestStandIn(Contract):
    @pytest.fixture
    async def office(self) -> AsyncIterator[Office]:
        office = Office("memory://", max_unfinished=3, keep_seconds=3600, kept_bytes=2 << 20)
        yield office
        await office.connection.close()


@pytest.mark.redis
class TestRedis(Contract):
    @pytest.fixture
    async def office(self, redis_url) -> AsyncIterator[Office]:
        office = Office(redis_url, max_unfinished=3, keep_seconds=3600, kept_bytes=2 << 20)
        async with office.connection.calling() as redis:
            await redis.flushall()
        yield office
        await office.connection.close()

    @pytest.fixture
    async def losing(self, office, redis_url) -> AsyncIterator[tuple[Office, Line]]:
        """The same as ``office``, behind a line that may be cut."""
        async with bad_line(redis_url) as line:
            cut_off = Office(line.url)
            yield cut_off, line
            await cut_off.connection.close()

    async def test_what_was_done_though_the_reply_was_lost_is_done_once(
        self, office, losing
    ) -> None:
        front, line = losing
        line.cut_at(b"HINCRBY")
        await front.submit()
        assert (line.cut, front.known, await office.queue.length()) == (True, None, 2)

        entry = await front.take()
        line.cut_at(b"XADD")
        await front.queue.put_back(entry, attempt=1)
        assert (line.cut, await office.queue.length()) == (True, 2)

        entry = await front.take()
        await front.board.begin(entry)
        line.cut_at(b"XADD")
        job = await front.board.finish(entry)
        assert (line.cut, len(job.finished), await office.queue.length()) == (True, 1, 2)

        line.cut_at(b"PUBLISH")
        await front.board.cancel("j", "o")
        assert (line.cut, front.ends("cancelled")) == (True, 1)

        line.cut_at(b"SADD")
        assert (await front.board.resume("j", "o", job.finished)).run == 2
        assert (line.cut, sorted(await office.drain())) == (True, [ASSEMBLY, 0, 2, 3, 4])
