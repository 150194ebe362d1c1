"""Jobs and keys are their owners' alone, and count towards their quota."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.front import Front, eventually, running_front
from tests.support.keys import bearer, keys_file

CALLERS = {name: {"scopes": ["read", "generate"]} for name in ("alice", "bob")}


@pytest.fixture
async def owned(tmp_path) -> AsyncIterator[tuple[Front, dict[str, str], dict[str, str]]]:
    """A front end, and the headers by which it knows its two callers."""
    keys = keys_file(tmp_path / "keys.json", **CALLERS)
    security, quota = {"api_keys_file": tmp_path / "keys.json"}, {"images": "100/hour"}
    async with running_front(security=security, quota=quota) as front:
        yield front, bearer(keys["alice"]), bearer(keys["bob"])


async def submit(front: Front, headers: dict[str, str], images: int = 8, **more: str) -> dict:
    wishes = {"Prefer": "respond-async"} | headers | more
    answer = await front.client.post("/generate", json={"num_images": images}, headers=wishes)
    return {"status_code": answer.status_code} | answer.json()


async def test_nobody_sees_cancels_or_resumes_the_job_of_another(owned) -> None:
    front, alice, bob = owned
    job_id = (await submit(front, alice))["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/resume"), ("GET", "/result")):
        answer = await front.client.request(method, f"/jobs/{job_id}{path}", headers=bob)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")
    assert (await front.client.get("/jobs", headers=bob)).json()["total"] == 0
    assert (await front.client.get("/jobs", headers=alice)).json()["total"] == 1
    assert (await front.client.get("/jobs")).status_code == 401


async def test_two_callers_may_choose_the_same_key(owned) -> None:
    front, alice, bob = owned
    key = {"Idempotency-Key": "k"}
    first, second = await submit(front, alice, **key), await submit(front, bob, **key)
    assert first["id"] != second["id"]
    assert (await submit(front, alice, **key))["id"] == first["id"]


async def test_a_job_counts_when_it_is_submitted_and_its_repeats_do_not(owned) -> None:
    front, alice, _ = owned
    key = {"Idempotency-Key": "k"}
    for _ in range(3):
        assert (await submit(front, alice, 60, **key))["status_code"] == 202
    assert (await submit(front, alice, 60))["status_code"] == 429
    assert (await submit(front, alice, 40))["status_code"] == 202


async def test_a_job_there_is_no_room_for_costs_nothing() -> None:
    async with running_front(
        quota={"images": "100/hour"}, jobs={"max_unfinished": 1, "concurrency": 0}
    ) as front:
        first = await submit(front, {}, 40)
        for _ in range(3):
            assert (await submit(front, {}, 60))["code"] == "overloaded"
        await front.client.delete(f"/jobs/{first['id']}")
        assert (await submit(front, {}, 60))["status_code"] == 202


async def test_submissions_at_once_with_one_key_count_once(owned) -> None:
    front, alice, _ = owned
    key = {"Idempotency-Key": "k"}
    jobs = await asyncio.gather(*(submit(front, alice, 50, **key) for _ in range(2)))
    assert len({job["id"] for job in jobs}) == 1
    assert (await submit(front, alice, 50))["status_code"] == 202


@pytest.mark.parametrize(("images", "status_code", "left"), [(40, 202, 28), (70, 429, 30)])
async def test_a_resumption_counts_what_is_missing(images, status_code, left) -> None:
    quota, jobs = {"images": "100/hour"}, {"part_images": 8, "concurrency": 1}
    async with running_front(quota=quota, jobs=jobs) as front:
        front.backend.gate.passes = 12
        job_id = (await submit(front, {}, images))["id"]
        await eventually(lambda: front.backend.gate.waiting)
        await front.client.delete(f"/jobs/{job_id}")
        await eventually(lambda: not front.backend.running)
        front.backend.gate.open.set()
        resumed = await front.client.post(f"/jobs/{job_id}/resume")
        assert resumed.status_code == status_code
        refused = await front.submit(num_images=left + 1)
        assert refused.headers["RateLimit"].startswith(f'"images";r={left};')
        ended = await front.ended(job_id)
        assert ended["status"] == ("succeeded" if status_code == 202 else "cancelled")
        again = await front.client.post(f"/jobs/{job_id}/resume")
        assert again.status_code == (409 if status_code == 202 else 429)
        assert (await front.submit(num_images=left)).status_code == 202
