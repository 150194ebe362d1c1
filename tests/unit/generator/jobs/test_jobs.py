"""Jobs over HTTP, on the doubles and the stand-in for Redis within the process."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zipfile
from typing import Any

import httpx
import pytest

from gmem_shared.errors import InternalError, OutOfRangeError, StorageError
from tests.support.front import Front, eventually, running_front

REQUEST = {"class_label": 7, "num_images": 20, "seed": 42}
SMALL = {"part_images": 8}


def images_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


async def result(front: Front, job: dict[str, Any]) -> dict[str, bytes]:
    answer = await front.client.get(job["links"]["result"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert int(answer.headers["content-length"]) == len(answer.content)
    return images_of(answer.content)


def same_as(files: dict[str, bytes], answer: httpx.Response) -> bool:
    """Whether a result has the images of an answer, byte for byte, and nothing else."""
    expected = {
        f"{image['index']:06d}.png": base64.b64decode(image["b64_png"])
        for image in answer.json()["images"]
    }
    return expected == {name: files[name] for name in files if name.endswith(".png")}


@pytest.mark.parametrize(
    "request_body",
    [
        REQUEST,
        {"num_images": 17, "seed": 1, "num_steps": 3, "sampler": "euler"},
        {"memory": {"rows": [17, 3, 9]}, "num_images": 20, "seed": 4},
        {"memory": {"exclude": list(range(50))}, "num_images": 20, "seed": 5},
        {"model": "sit", "num_images": 20, "seed": 6},
        {"model": "edm2", "num_images": 9, "seed": 7},
    ],
    ids=["class", "any", "rows", "exclude", "labels", "nothing"],
)
async def test_a_job_makes_the_images_of_the_same_request_byte_for_byte(request_body) -> None:
    async with running_front(jobs=SMALL) as front:
        submitted = await front.submit(**request_body)
        assert submitted.status_code == 202
        assert submitted.headers["Preference-Applied"] == "respond-async"
        assert submitted.headers["Location"] == f"/jobs/{submitted.json()['id']}"
        job = await front.ended(submitted.json()["id"])
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert job["images"]["done"] == job["images"]["total"] == request_body["num_images"]
        assert same_as(await result(front, job), await front.generate(**request_body))


async def test_the_pinned_request_makes_the_same_images_after_the_bank_has_moved(front) -> None:
    submitted = (await front.submit(class_label=3, num_images=3)).json()
    job = await front.ended(submitted["id"])
    front.bank.publish()
    again = await front.client.post("/generate", json=job["request"])
    assert [task.priority for task in front.backend.tasks] == ["batch", "interactive"]
    assert same_as(await result(front, job), again)
    assert again.json()["bank"] == job["bank"]
    assert again.json()["model"] == job["model"]


async def test_the_manifest_tells_what_made_each_image(front) -> None:
    job = await front.ended((await front.submit(**REQUEST)).json()["id"])
    files = await result(front, job)
    lines = [json.loads(line) for line in files["manifest.jsonl"].decode().splitlines()]
    answers = (await front.generate(**REQUEST)).json()["images"]
    for line, answer in zip(lines, answers, strict=True):
        del answer["b64_png"]
        assert line == {"file": f"{answer['index']:06d}.png"} | answer


async def test_a_replay_may_be_a_job_too(front) -> None:
    image = (await front.generate(**REQUEST)).json()["images"][5]
    job = await front.ended((await front.submit(replay=image["replay"])).json()["id"])
    assert (await result(front, job))["000005.png"] == base64.b64decode(image["b64_png"])


async def test_a_job_may_have_more_images_than_an_answer() -> None:
    async with running_front(jobs={**SMALL, "max_images": 100}, max_images=4) as front:
        assert (await front.generate(num_images=5)).status_code == 422
        job = await front.ended((await front.submit(num_images=100)).json()["id"])
        assert len(await result(front, job)) == 101
        many = await front.submit(num_images=101)
        assert (many.status_code, many.json()["errors"][0]["field"]) == (422, "num_images")


async def test_rows_are_excluded_from_no_more_images_than_an_answer_has() -> None:
    async with running_front(max_images=4) as front:
        answer = await front.submit(memory={"exclude": [1]}, num_images=5)
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"class_label": "no such class"}, 404),
        ({"bank": "no-such-bank"}, 404),
        ({"memory": {"rows": [10_000]}}, 404),
        ({"sampler": "no such sampler"}, 404),
        ({"num_steps": 100_000}, 422),
        ({"unknown": 1}, 400),
        ({"model": "sit", "bank": "digits"}, 409),
    ],
)
async def test_what_an_answer_would_refuse_is_no_job(front, body, status) -> None:
    assert (await front.submit(**body)).status_code == status
    assert (await front.client.get("/jobs")).json() == {"jobs": [], "total": 0}


async def test_a_job_that_is_cancelled_stops_its_engine_at_once_and_is_cancelled_once(
    front,
) -> None:
    front.backend.gate.passes = 3
    job_id = (await front.submit(**REQUEST)).json()["id"]
    await eventually(lambda: front.backend.gate.waiting)
    assert (await front.job(job_id))["status"] == "running"
    for _ in range(2):
        answer = await front.client.delete(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    await eventually(lambda: front.backend.stopped and not front.backend.running)
    assert front.metric("gmem_generator_jobs_total", event="cancelled") == 1
    early = await front.client.get(f"/jobs/{job_id}/result")
    assert (early.status_code, early.json()["code"]) == (409, "conflict")


async def test_a_job_goes_on_where_it_was_cancelled() -> None:
    async with running_front(jobs={**SMALL, "concurrency": 1}) as front:
        front.backend.gate.passes = 12
        job_id = (await front.submit(**REQUEST)).json()["id"]
        await eventually(lambda: front.backend.gate.waiting)
        await front.client.delete(f"/jobs/{job_id}")
        await eventually(lambda: not front.backend.running)
        assert (await front.job(job_id))["images"] == {"done": 8, "total": 20}
        front.backend.gate.open.set()
        resumed = await front.client.post(f"/jobs/{job_id}/resume")
        assert (resumed.status_code, resumed.json()["status"]) == (202, "queued")
        job = await front.ended(job_id)
        assert same_as(await result(front, job), await front.generate(**REQUEST))
        firsts = [int(task.indices[0]) for task in front.backend.tasks]
        assert firsts == [0, 8, 8, 16, 0]  # the last is the answer's
        again = await front.client.post(f"/jobs/{job_id}/resume")
        assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_what_can_never_be_made_fails_at_once_with_its_problem(front) -> None:
    front.backend.fail_after = (2, OutOfRangeError("expected fewer, found more"))
    job = await front.ended((await front.submit(**REQUEST)).json()["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "out_of_range")
    assert job["error"]["detail"] == "expected fewer, found more"
    assert len(front.backend.tasks) == 1
    assert front.metric("gmem_generator_jobs_total", event="failed") == 1


async def test_a_defect_is_tried_a_few_times_and_a_failed_job_can_be_resumed(front) -> None:
    front.backend.fail_after = (2, InternalError("a defect"))
    job = await front.ended((await front.submit(**REQUEST)).json()["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "internal")
    assert len(front.backend.tasks) == 3
    front.backend.fail_after = None
    await front.client.post(f"/jobs/{job['id']}/resume")
    assert (await front.ended(job["id"]))["status"] == "succeeded"


async def test_a_store_that_is_away_is_waited_for(front) -> None:
    front.backend.fail_after = (2, StorageError("the store does not answer"))
    job_id = (await front.submit(**REQUEST)).json()["id"]
    await eventually(lambda: len(front.backend.tasks) > 1)
    assert (await front.job(job_id))["status"] == "running"
    front.backend.fail_after = None
    assert (await front.ended(job_id))["status"] == "succeeded"


async def test_who_waits_for_an_answer_goes_first() -> None:
    async with running_front(jobs=SMALL, max_waiting_images=16) as front:
        front.backend.gate.open.clear()
        waiting = asyncio.create_task(front.generate(num_images=12))
        await eventually(lambda: front.backend.running)
        await front.submit(**REQUEST)
        await asyncio.sleep(0.3)
        assert len(front.backend.tasks) == 1
        assert front.backend.tasks[0].priority == "interactive"
        front.backend.gate.open.set()
        assert (await waiting).status_code == 200
        await eventually(lambda: len(front.backend.tasks) > 1)
        assert front.backend.tasks[1].priority == "batch"


async def test_jobs_take_turns() -> None:
    async with running_front(jobs={**SMALL, "concurrency": 1, "parallel_parts": 1}) as front:
        long = (await front.submit(num_images=80, seed=1)).json()["id"]
        short = (await front.submit(num_images=8, seed=2)).json()["id"]
        await front.ended(short)
        assert (await front.job(long))["status"] == "running"


async def test_there_is_a_limit_to_unfinished_jobs() -> None:
    async with running_front(jobs={"concurrency": 0, "max_unfinished": 2}) as front:
        first = (await front.submit()).json()["id"]
        await front.submit()
        refused = await front.submit()
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        await front.client.delete(f"/jobs/{first}")
        assert (await front.submit()).status_code == 202


async def test_workers_that_share_a_port_need_a_redis_that_they_share() -> None:
    async with running_front(workers=2) as front:
        refused = await front.submit(**REQUEST)
        assert refused.status_code == 503
        assert "GMEM_REDIS__URL" in refused.json()["detail"]
        assert (await front.generate(**REQUEST)).status_code == 200


async def test_jobs_are_listed_newest_first_page_by_page() -> None:
    async with running_front(jobs={"concurrency": 0}) as front:
        ids = [(await front.submit(seed=n)).json()["id"] for n in range(5)]
        page = (await front.client.get("/jobs", params={"offset": 1, "limit": 2})).json()
        assert page["total"] == 5
        assert [job["id"] for job in page["jobs"]] == [ids[3], ids[2]]


@pytest.mark.parametrize(("method", "path"), [
    ("GET", ""), ("DELETE", ""), ("POST", "/resume"), ("GET", "/events"), ("GET", "/result"),
])  # fmt: skip
async def test_a_job_that_is_not_there_is_a_problem(front, method, path) -> None:
    answer = await front.client.request(method, f"/jobs/nosuchjob{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


async def test_a_job_is_followed_until_it_ends(front) -> None:
    job_id = (await front.submit(**REQUEST)).json()["id"]
    followed = await front.client.get(f"/jobs/{job_id}/events")
    assert followed.headers["content-type"].startswith("text/event-stream")
    data = [json.loads(line[6:]) for line in followed.text.splitlines() if line[:5] == "data:"]
    assert data[-1]["status"] == "succeeded"
    assert [event["images"]["done"] for event in data] == sorted(
        event["images"]["done"] for event in data
    )


async def test_a_job_and_its_files_go_when_they_were_kept_long_enough(monkeypatch) -> None:
    monkeypatch.setattr("gmem_generator.jobs.worker._SWEEP_SECONDS", 0.05)
    short = {"keep_seconds": 0.2}
    async with running_front(jobs=short) as front:
        job = await front.ended((await front.submit(**REQUEST)).json()["id"])

        async def gone() -> bool:
            return (await front.client.get(f"/jobs/{job['id']}")).status_code == 404

        while not await gone():  # noqa: ASYNC110 (it is asked)
            await asyncio.sleep(0.02)
        assert (await front.client.get("/jobs")).json() == {"jobs": [], "total": 0}
        answer = await front.client.get(f"/jobs/{job['id']}/result")
        assert answer.status_code == 404


async def test_a_server_that_stops_takes_no_job_and_gives_back_what_it_makes() -> None:
    async with running_front(jobs=SMALL) as front:
        front.backend.gate.open.clear()
        job_id = (await front.submit(**REQUEST)).json()["id"]
        await eventually(lambda: front.backend.running)
        front.app.state.drain.begin()
        await eventually(lambda: not front.backend.running)
        await eventually(
            lambda: front.metric("gmem_generator_job_parts_total", outcome="given_back")
        )
        job = await front.job(job_id)
        assert (job["status"], job["images"]["done"]) == ("running", 0)
        assert (await front.submit(**REQUEST)).status_code == 503
