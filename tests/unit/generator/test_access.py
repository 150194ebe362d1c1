"""Who may ask the front end, and what they are told who may not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gmem_generator.promises import Promises
from tests.support.front import Front, eventually, running_front
from tests.support.keys import LONG_AGO, bearer, keys_file

KEYS = {
    "maker": {"scopes": ["generate"]},
    "rival": {"scopes": ["generate"]},
    "reader": {"scopes": ["read"]},
    "late": {"scopes": ["generate", "read"], "expires": LONG_AGO},
}
OPEN = ["/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics", "/web/studio.js"]
READS = ["/classes", "/banks", "/models", "/samplers"]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return keys_file(tmp_path / "keys.json", **KEYS)


@pytest.fixture
async def locked(keys, tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(security={"api_keys_file": tmp_path / "keys.json"}) as running:
        yield running


def check_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("path", OPEN)
async def test_health_metrics_and_pages_are_open_to_all(locked, path) -> None:
    assert (await locked.client.get(path)).status_code == 200


@pytest.mark.parametrize("path", [*READS, "/nowhere", "/web", "/livez/"])
async def test_reads_and_unknown_paths_need_a_key_that_reads(locked, keys, path) -> None:
    get = locked.client.get
    check_problem(await get(path), 401, "unauthenticated")
    check_problem(await get(path, headers=bearer(keys["maker"])), 403, "forbidden")
    answer = await get(path, headers=bearer(keys["reader"]))
    assert answer.status_code in ((200,) if path in READS else (404, 307))


@pytest.mark.parametrize("path", ["/generate", "/v1/generate"])
async def test_images_need_a_key_that_generates(locked, keys, path) -> None:
    post = locked.client.post
    check_problem(await post(path, json={}), 401, "unauthenticated")
    check_problem(await post(path, json={}, headers=bearer("gmem_wrong")), 401, "unauthenticated")
    check_problem(await post(path, json={}, headers=bearer(keys["late"])), 401, "unauthenticated")
    check_problem(await post(path, json={}, headers=bearer(keys["reader"])), 403, "forbidden")
    assert not locked.backend.tasks
    for headers in (bearer(keys["maker"]), {"X-API-Key": keys["maker"]}):
        assert (await post(path, json={}, headers=headers)).status_code == 200


async def test_a_key_in_the_query_is_no_key(locked, keys) -> None:
    for name in ("api_key", "key", "access_token"):
        answer = await locked.client.post(f"/generate?{name}={keys['maker']}", json={})
        check_problem(answer, 401, "unauthenticated")


async def test_the_refused_are_refused_before_their_body_is_read(locked) -> None:
    answer = await locked.client.post("/generate", content=b"x" * 10_000_000)
    check_problem(answer, 401, "unauthenticated")


async def test_a_body_over_the_limit_is_a_413_problem_for_those_who_may_ask(locked, keys) -> None:
    headers = bearer(keys["maker"]) | {"Content-Type": "application/json"}
    answer = await locked.client.post("/generate", content=b" " * (2 << 20), headers=headers)
    check_problem(answer, 413, "too_large")


async def test_refusals_are_counted_and_the_log_names_who_asked(locked, keys, logged) -> None:
    await locked.client.get("/classes")
    await locked.client.get("/classes", headers=bearer(keys["maker"]))
    await locked.client.get("/classes", headers=bearer(keys["reader"]))
    for code in ("unauthenticated", "forbidden"):
        assert locked.metric("gmem_generator_refused_total", code=code) == 1
    callers = [e.get("caller") for e in logged if e["event"] == "request.finished"]
    assert callers == [None, "maker", "reader"]


async def test_without_keys_everything_is_open_and_nobody_is_named(front, logged) -> None:
    assert (await front.generate()).status_code == 200
    assert "caller" not in logged[-1]


async def test_a_key_is_not_taken_for_a_request_id(front, keys) -> None:
    answer = await front.client.get("/livez", headers={"X-Request-Id": keys["maker"]})
    assert keys["maker"] not in answer.headers.values()


async def test_nobody_takes_the_place_that_another_was_promised(keys, tmp_path: Path) -> None:
    security = {"api_keys_file": tmp_path / "keys.json"}
    async with running_front(max_waiting_images=4, security=security) as front:

        async def ask(who: str, seed: int) -> httpx.Response:
            body = {"num_images": 4, "seed": seed}
            return await front.client.post("/generate", json=body, headers=bearer(keys[who]))

        front.backend.gate.open.clear()
        first = asyncio.create_task(ask("maker", 1))
        await eventually(lambda: front.backend.running)
        put_off = await ask("maker", 2)
        assert put_off.status_code == 429
        front.backend.gate.open.set()
        assert (await first).status_code == 200
        await asyncio.sleep(int(put_off.headers["Retry-After"]))
        assert (await ask("rival", 2)).status_code == 429
        assert (await ask("maker", 2)).status_code == 200


async def test_what_is_remembered_of_a_request_that_was_put_off_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remembered: list[bytes] = []

    def make(_: Promises, request: bytes, *__: float) -> int:
        remembered.append(request)
        return 1

    monkeypatch.setattr(Promises, "make", make)
    async with running_front(max_waiting_images=4) as front:
        headers = {"Content-Type": "application/json"}
        front.backend.gate.open.clear()
        first = asyncio.create_task(front.generate(num_images=4))
        await eventually(lambda: front.backend.running)
        body = b'{"num_images": 4}' + b" " * 900_000
        for _ in range(2):  # by admission, then by the gate
            refused = await front.client.post("/generate", content=body, headers=headers)
            assert refused.status_code == 429
        front.backend.gate.open.set()
        await first
    assert [len(request) for request in remembered] == [16, 16]
