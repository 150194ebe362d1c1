"""Jobs on a real Redis, made by front ends that die, stop and lose it."""

from __future__ import annotations

import concurrent.futures
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.redis import RedisServer, redis_server
from tests.support.replicas import UNHURRIED, Replica, replicas
from tests.support.stack import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.redis]

REQUEST = {"class_label": 7, "seed": 42, "num_steps": 4}
SMALL = UNHURRIED | {"GMEM_JOBS__PART_IMAGES": "16"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def fronts(tmp_path: Path, redis: RedisServer) -> Iterator[list[Replica]]:
    with replicas(2, tmp_path, redis.url, **SMALL) as running:
        yield running


def test_a_front_end_that_is_killed_costs_no_image_and_doubles_none(fronts) -> None:
    killed, left = fronts
    request = {**REQUEST, "num_images": 1000}
    job_id = killed.submit(**request).json()["id"]
    left.wait_for_images(job_id, 200)
    assert killed.metric("gmem_generator_job_images_total") > 0
    killed.process.send_signal(signal.SIGKILL)
    job = left.ended(job_id)
    assert (job["status"], job["images"]) == ("succeeded", {"done": 1000, "total": 1000})
    assert left.result(job_id) == left.answer(request)


def test_a_job_is_cancelled_and_resumed_from_another_front_end(fronts) -> None:
    first, second = fronts
    request = {**REQUEST, "num_images": 500}
    job_id = first.submit(**request).json()["id"]
    second.wait_for_images(job_id, 64)
    assert httpx.delete(f"{second.url}/jobs/{job_id}").json()["status"] == "cancelled"
    for front in fronts:
        wait_for(lambda f=front: f.metric("gmem_generator_images_waiting") == 0, "it stops", 2)
    stored = first.job(job_id)["images"]["done"]
    time.sleep(0.5)
    assert first.job(job_id)["images"]["done"] == stored < 500
    assert httpx.post(f"{first.url}/jobs/{job_id}/resume").status_code == 202
    assert second.ended(job_id)["status"] == "succeeded"
    assert second.result(job_id) == first.answer(request)
    made = sum(front.metric("gmem_generator_job_images_total") for front in fronts)
    assert made <= 500 + 4 * 16  # what was in the making when it was cancelled is made again


def test_a_redis_that_hangs_and_restarts_loses_nothing_it_acknowledged(fronts, redis) -> None:
    front, other = fronts
    requests = [{**REQUEST, "num_images": 400, "seed": seed} for seed in range(3)]
    ids = [front.submit(**request).json()["id"] for request in requests]
    front.wait_for_images(ids[0], 64)

    redis.send(signal.SIGSTOP)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        began = time.monotonic()
        assert len(front.answer({**REQUEST, "num_images": 2})) == 2
        assert time.monotonic() - began < 1
        refused = front.submit(**REQUEST)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["Retry-After"]) >= 1
        ready = httpx.get(f"{front.url}/readyz")
        assert (ready.status_code, ready.json()["parts"]["redis"]["ready"]) == (200, False)
    redis.send(signal.SIGCONT)
    wait_for(lambda: front.submit(**REQUEST).status_code == 202, "Redis is back", 10)

    redis.kill()
    assert front.submit(**REQUEST).status_code == 503
    assert len(front.answer({**REQUEST, "num_images": 2})) == 2
    redis.start()
    for job_id, request in zip(ids, requests, strict=True):
        assert other.ended(job_id)["status"] == "succeeded"
        assert other.result(job_id) == front.answer(request)


def test_a_front_end_that_is_told_to_stop_gives_its_parts_back_at_once(tmp_path, redis) -> None:
    # Parts that were not given back would be claimed after a minute only.
    patient = SMALL | {"GMEM_JOBS__CLAIM_SECONDS": "60"}
    with replicas(2, tmp_path, redis.url, **patient) as (stopped, left):
        request = {**REQUEST, "num_images": 600}
        job_id = stopped.submit(**request).json()["id"]
        left.wait_for_images(job_id, 64)
        began = time.monotonic()
        stopped.process.terminate()
        assert stopped.process.wait(20) == 0
        job = left.ended(job_id, seconds=30)
        assert time.monotonic() - began < 30
        assert job["status"] == "succeeded"
        assert left.result(job_id) == left.answer(request)


def test_a_front_end_that_begins_later_goes_on_with_what_it_finds(tmp_path, redis) -> None:
    request = {**REQUEST, "num_images": 300}
    with replicas(1, tmp_path, redis.url, **SMALL) as (first,):
        job_id = first.submit(**request).json()["id"]
        first.wait_for_images(job_id, 32)
        first.process.kill()
    with replicas(1, tmp_path, redis.url, **SMALL) as (second,):
        assert second.ended(job_id)["status"] == "succeeded"
        assert second.result(job_id) == second.answer(request)


def test_duplicates_that_come_together_are_one_job_on_whichever_front_end(fronts) -> None:
    request = {**REQUEST, "num_images": 32}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(fronts[n % 2].submit, key="k", **request) for n in range(8)]
        answers = [one.result() for one in sent]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert httpx.get(f"{fronts[0].url}/jobs").json()["total"] == 1


def test_a_request_is_repeated_at_another_front_end(fronts) -> None:
    first, second = (
        httpx.post(
            f"{front.url}/generate", json={"num_images": 3}, headers={"Idempotency-Key": "k"}
        )
        for front in fronts
    )
    assert first.json()["images"] == second.json()["images"]
