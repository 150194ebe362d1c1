"""Requests that are sent again with their key."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from pydantic import TypeAdapter

from gmem_generator.jobs.idempotency import Key, Memory
from gmem_generator.jobs.wishes import wishes
from gmem_generator.schemas import GenerateBody, GenerateRequest
from gmem_shared.errors import InvalidRequestError, NewerRecordError, NotReadyError
from tests.support.front import Front, eventually, running_front

REQUEST = {"class_label": 7, "num_images": 3}
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
NOBODY = "redis://127.0.0.1:9/0"


async def send(front: Front, key: str = KEY, **body: object) -> httpx.Response:
    return await front.client.post(
        "/generate", json=body or REQUEST, headers={"Idempotency-Key": key}
    )


async def test_a_repeat_makes_the_same_images_whatever_was_published_since(front) -> None:
    first = await send(front)
    front.bank.publish()
    again = await send(front)
    assert again.status_code == 200
    assert again.json()["images"] == first.json()["images"]
    other = await send(front, key="another")
    assert other.json()["images"] != first.json()["images"]


@pytest.mark.parametrize("job", [False, True])
async def test_a_key_that_came_with_another_request_is_refused(front, job) -> None:
    if job:
        await front.submit(key=KEY, **REQUEST)
        other = await front.submit(key=KEY, **REQUEST, num_steps=3)
    else:
        await send(front)
        other = await send(front, num_steps=3)
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")


async def test_an_answer_is_not_a_job_though_the_body_is_the_same(front) -> None:
    await send(front)
    assert (await front.submit(key=KEY, **REQUEST)).status_code == 422


async def test_a_repeat_while_the_first_is_in_flight_is_told_to_wait(front) -> None:
    front.backend.gate.open.clear()
    first = asyncio.create_task(send(front))
    await eventually(lambda: front.backend.running)
    early = await send(front)
    assert (early.status_code, early.json()["code"]) == (409, "in_flight")
    assert int(early.headers["Retry-After"]) >= 1
    front.backend.gate.open.set()
    images = (await first).json()["images"]
    assert (await send(front)).json()["images"] == images


async def test_a_streamed_answer_is_in_flight_until_its_last_image(front) -> None:
    headers = {"Idempotency-Key": KEY, "Accept": "text/event-stream"}
    front.backend.gate.passes = 1
    first = asyncio.create_task(front.client.post("/generate", json=REQUEST, headers=headers))
    await eventually(lambda: front.backend.gate.waiting)
    early = await send(front)
    assert (early.status_code, early.json()["code"]) == (409, "in_flight")
    front.backend.gate.open.set()
    assert "event: completed" in (await first).text
    assert (await send(front)).status_code == 200


async def test_a_streamed_answer_whose_client_left_is_not_in_flight(front) -> None:
    headers = {"Idempotency-Key": KEY, "Accept": "text/event-stream"}
    front.backend.gate.passes = 1
    first = asyncio.create_task(front.client.post("/generate", json=REQUEST, headers=headers))
    await eventually(lambda: front.backend.gate.waiting)
    first.cancel()
    await eventually(lambda: not front.backend.running)
    front.backend.gate.open.set()
    while (again := await send(front)).status_code == 409:  # noqa: ASYNC110 (it is asked)
        await asyncio.sleep(0)
    assert again.status_code == 200


async def test_a_request_that_failed_may_be_repeated_with_another_outcome(front) -> None:
    front.backend.gate.failure = NotReadyError("the engine is away")
    assert (await send(front)).status_code == 503
    front.backend.gate.failure = None
    assert (await send(front)).status_code == 200


async def test_a_request_that_was_never_understood_leaves_its_key_free(front) -> None:
    assert (await send(front, class_label="no such class")).status_code == 404
    assert (await send(front)).status_code == 200


async def test_duplicates_that_come_together_are_one_job(front) -> None:
    answers = await asyncio.gather(*(front.submit(key=KEY, **REQUEST) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert (await front.client.get("/jobs")).json()["total"] == 1
    await front.ended(job_id)
    late = await front.submit(key=KEY, **REQUEST)
    assert (late.status_code, late.json()["id"]) == (202, job_id)


async def test_without_redis_nothing_is_promised() -> None:
    async with running_front(redis=NOBODY) as front:
        refused = await send(front)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await front.submit(**REQUEST)).status_code == 503
        assert (await front.generate(**REQUEST)).status_code == 200
        ready = await front.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["parts"]["redis"]["ready"] is False
        assert front.metric("gmem_generator_redis_up") == 0


async def test_a_key_may_be_ignored_while_redis_is_away() -> None:
    async with running_front(redis=NOBODY, jobs={"idempotency_required": False}) as front:
        assert (await send(front)).status_code == 200


def test_a_key_outlives_a_release_that_adds_a_field() -> None:
    class NewerRequest(GenerateRequest):
        hue: float | None = None
        tone: int = 3

    was = Key.of("o", "k", GenerateRequest(**REQUEST), job=False)
    assert Key.of("o", "k", NewerRequest(**REQUEST), job=False) == was
    assert Key.of("o", "k", NewerRequest(**REQUEST, tone=4), job=False) != was


def test_what_a_newer_release_chose_is_not_ignored() -> None:
    request = GenerateRequest(**REQUEST)
    assert Memory(fingerprint="f", chosen={"seed": 1}).pin(request).seed == 1
    with pytest.raises(NewerRecordError):
        Memory(fingerprint="f", chosen={"seed": 1, "hue": 0.5}).pin(request)


@pytest.mark.parametrize("body", [{"replay": "token"}, {"memory": {"exclude": [1]}}])
def test_a_request_of_which_little_was_chosen_comes_again_whole(body) -> None:
    request = TypeAdapter(GenerateBody).validate_python(body)
    assert Memory(fingerprint="f", chosen={}).pin(request) == request


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä", '"'])
async def test_a_key_that_is_none_is_refused(front, key) -> None:
    answer = await front.client.post(
        "/generate", json=REQUEST, headers=[(b"Idempotency-Key", key.encode())]
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(b"accept", b"image/png")], None),
        ([(b"prefer", b"wait=10")], None),
        ([(b"prefer", b"wait=10, Respond-Async")], (True, None)),
        ([(b"prefer", b"handling=lenient"), (b"prefer", b"respond-async; wait=1")], (True, None)),
        ([(b"idempotency-key", b'"quoted"')], (False, "quoted")),
        ([(b"idempotency-key", b"k"), (b"prefer", b"respond-async")], (True, "k")),
    ],
)
def test_headers_are_read_as_their_standards_say(headers, expected) -> None:
    found = wishes({"headers": headers})
    assert (None if found is None else (found.job, found.key)) == expected


def test_two_keys_are_none() -> None:
    with pytest.raises(InvalidRequestError):
        wishes({"headers": [(b"idempotency-key", b"a"), (b"idempotency-key", b"b")]})
