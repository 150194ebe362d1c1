from __future__ import annotations

import pytest


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/", "/web/studio.js"])
async def test_every_answer_carries_the_security_headers(front, path) -> None:
    headers = (await front.client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_a_sane_request_id_is_taken_over(front) -> None:
    answer = await front.client.get("/livez", headers={"X-Request-Id": "trace-1.b_C"})
    assert answer.headers["X-Request-Id"] == "trace-1.b_C"


@pytest.mark.parametrize("offered", ["", "a b", "x" * 65, "é".encode(), 'a"b', "<script>"])
async def test_any_other_request_id_is_replaced(front, offered) -> None:
    headers = [(b"X-Request-Id", offered if isinstance(offered, bytes) else offered.encode())]
    given = (await front.client.get("/livez", headers=headers)).headers["X-Request-Id"]
    assert given != offered
    assert len(given) == 32


async def test_a_defect_is_a_500_problem_with_the_id_of_its_log_event(front, logged) -> None:
    front.backend.fail_after = (0, ZeroDivisionError("secret"))
    answer = await front.client.post("/generate", json={}, headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    problem = answer.json()
    assert (problem["code"], problem["request_id"]) == ("internal", "find-me")
    assert "secret" not in answer.text
    assert ("request.failed", "find-me") in [(e["event"], e["request_id"]) for e in logged]
    assert front.metric("gmem_generator_requests_total", route="/generate", status="500") == 1


async def test_requests_are_counted_by_route_never_by_path(front) -> None:
    for path in ("/a", "/b", "/web/c"):
        await front.client.get(path)
    await front.client.get("/classes?bank=digits@1")
    assert front.metric("gmem_generator_requests_total", route="other", status="404") == 3
    assert front.metric("gmem_generator_requests_total", route="/classes", status="200") == 1
    assert front.metric("gmem_generator_request_seconds_count", route="/classes") == 1
