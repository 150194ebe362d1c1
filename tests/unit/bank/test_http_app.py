from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from safetensors.numpy import load

from gmem_bank.http_app import create_app
from gmem_bank.local import LocalBank
from gmem_shared.store import Store
from gmem_shared.types import DrawSpec
from tests.support import banks
from tests.support.tracing import spans_in_memory

DRAW, SEARCH = "/v1/banks/digits/draw", "/v1/banks/digits/search"
NAN_QUERY = '{"queries": [[NaN, 1, 1, 1, 1, 1, 1, 1]]}'


@pytest.fixture
async def bank(store: Store) -> AsyncIterator[LocalBank]:
    registry = CollectorRegistry()
    bank = LocalBank(store, banks.settings(max_rows=1000), registry)
    bank.registry = registry  # type: ignore[attr-defined]
    yield bank
    await bank.close()


@pytest.fixture
async def http(bank: LocalBank) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(bank, bank.registry)  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
        yield client


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    return problem


async def test_draw_as_json_and_as_safetensors_are_the_same_rows(
    store: Store, bank: LocalBank, http: httpx.AsyncClient
) -> None:
    version = banks.publish(store)
    body = {"specs": [{"seed": 2**64 - 1, "count": 3}, {"seed": 1, "labels": [2], "offset": 7}]}
    as_json = (await http.post("/v1/banks/digits@production/draw", json=body)).json()
    accept = {"Accept": "application/octet-stream"}
    response = await http.post(DRAW, json=body, headers=accept)
    tensors = load(response.content)

    assert as_json["bank"] == {"name": "digits", "seq": 1, "digest": version.digest}
    assert response.headers["gmem-bank-version"] == f"digits@1; digest={version.digest}"
    assert as_json["counts"] == tensors["counts"].tolist() == [3, 1]
    for column in ("rows", "source_ids", "labels", "weights"):
        assert as_json[column] == tensors[column].tolist()
    vectors = as_json["vectors"]
    assert (vectors["dtype"], vectors["shape"]) == ("float16", [4, banks.DIMENSION])
    assert base64.b64decode(vectors["data"]) == tensors["vectors"].tobytes()
    local = await bank.draw("digits", [DrawSpec(3, 2**64 - 1), DrawSpec(1, 1, (2,), 7)])
    assert as_json["rows"] == [*local[0].rows.tolist(), *local[1].rows.tolist()]


@pytest.mark.parametrize("name", ["digits@1", "digits%401"])
async def test_a_version_can_be_named_in_the_path(
    store: Store, http: httpx.AsyncClient, name: str
) -> None:
    banks.publish(store)
    banks.publish(store, **banks.features(seed=1))
    assert (await http.get(f"/v1/banks/{name}")).json()["bank"]["seq"] == 1
    drawn = await http.post(f"/v1/banks/{name}/draw", json={"specs": [{"seed": 1}]})
    assert drawn.json()["bank"]["seq"] == 1


async def test_gather_and_snippet_give_the_rows_asked_for(
    store: Store, http: httpx.AsyncClient
) -> None:
    banks.publish(store)
    gathered = (await http.post("/v1/banks/digits/gather", json={"rows": [7, 2]})).json()
    assert gathered["rows"] == [7, 2]
    one = (await http.get("/v1/banks/digits/snippets/2")).json()
    assert one["source_ids"] == gathered["source_ids"][1:]


async def test_search_answers_one_list_per_query(store: Store, http: httpx.AsyncClient) -> None:
    banks.publish(store)
    axis = np.eye(banks.DIMENSION)[2].tolist()
    body = {"queries": [axis], "count": 12, "labels": [2]}
    found = (await http.post(SEARCH, json=body)).json()
    assert found["exact"]
    assert [n["label"] for n in found["neighbours"][0]] == [2] * 10, "padding is left out"
    scores = [n["score"] for n in found["neighbours"][0]]
    assert scores == sorted(scores, reverse=True)


async def test_versions_and_aliases_can_be_read_and_moved(
    store: Store, http: httpx.AsyncClient
) -> None:
    banks.publish(store)
    banks.publish(store, alias=None, **banks.features(seed=1))
    moved = await http.put(
        "/v1/banks/digits/aliases/production", json={"selector": "2", "reason": "better"}
    )
    assert moved.json()["bank"]["seq"] == 2
    assert moved.json()["generation"] == 2
    versions = (await http.get("/v1/banks/digits/versions")).json()
    assert [(v["bank"]["seq"], v["aliases"]) for v in versions] == [(1, []), (2, ["production"])]
    assert (await http.get("/v1/banks/digits/versions/1")).json()["bank"]["seq"] == 1
    listed = (await http.get("/v1/banks")).json()
    assert [bank["bank"]["seq"] for bank in listed] == [2]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("DELETE", "/v1/banks/digits", None, 405, "invalid_request"),
        ("GET", "/v1/banks/letters", None, 404, "unknown_bank"),
        ("GET", "/v1/banks/letters/versions", None, 404, "unknown_bank"),
        ("GET", "/v1/banks/digits@9", None, 404, "unknown_version"),
        ("GET", "/v1/banks/digits/versions/staging", None, 404, "unknown_alias"),
        ("GET", "/v1/banks/%C3%A9", None, 400, "invalid_request"),
        ("GET", "/v1/banks/digits/snippets/40", None, 404, "unknown_row"),
        ("GET", "/v1/banks/digits/snippets/-1", None, 404, "unknown_row"),
        ("GET", f"/v1/banks/digits/snippets/{2**80}", None, 422, "out_of_range"),
        ("GET", "/v1/banks/digits/snippets/x", None, 400, "invalid_request"),
        ("POST", DRAW, "{", 400, "invalid_request"),
        ("POST", DRAW, "[" * 100_000, 400, "invalid_request"),
        ("POST", DRAW, "{}", 400, "invalid_request"),
        ("POST", DRAW, '{"specs": []}', 422, "out_of_range"),
        ("POST", DRAW, '{"specs": [{"seed": "1"}]}', 400, "invalid_request"),
        ("POST", DRAW, '{"specs": [{"seed": 1, "x": 1}]}', 400, "invalid_request"),
        ("POST", DRAW, '{"specs": [{"seed": -1}]}', 422, "out_of_range"),
        ("POST", DRAW, '{"specs": [{"seed": 1, "count": 0}]}', 422, "out_of_range"),
        ("POST", DRAW, '{"specs": [{"seed": 1, "count": 1001}]}', 413, "too_large"),
        ("POST", DRAW, '{"specs": [{"seed": 1, "labels": [9]}]}', 404, "unknown_class"),
        ("POST", "/v1/banks/digits/gather", '{"rows": [99]}', 404, "unknown_row"),
        ("POST", SEARCH, '{"queries": [[1], [1, 2]]}', 400, "invalid_request"),
        ("POST", SEARCH, NAN_QUERY, 400, "invalid_request"),
        ("POST", SEARCH, NAN_QUERY.replace("NaN", "3.5e38"), 400, "invalid_request"),
        ("POST", SEARCH, '{"queries": [[1]], "count": 5000}', 422, "out_of_range"),
        ("PUT", "/v1/banks/digits/aliases/3", '{"selector": "1"}', 400, "invalid_request"),
        ("PUT", "/v1/banks/digits/aliases/prod", '{"selector": "9"}', 404, "unknown_version"),
    ],
)  # fmt: skip
async def test_bad_input_is_a_precise_problem(
    store: Store,
    http: httpx.AsyncClient,
    method: str,
    path: str,
    body: str | None,
    status: int,
    code: str,
) -> None:
    banks.publish(store)
    headers = {"Content-Type": "application/json"}
    response = await http.request(method, path, content=body, headers=headers)
    assert_problem(response, status, code)


async def test_fields_at_fault_are_listed(store: Store, http: httpx.AsyncClient) -> None:
    banks.publish(store)
    response = await http.post(DRAW, json={"specs": [{"seed": -1}]})
    assert assert_problem(response, 422, "out_of_range")["errors"] == [
        {
            "field": "specs.0.seed",
            "message": "expected greater than or equal to 0, found -1",
        }
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/banks/digits/gather", {"rows": ["x"] * 1000}),
        (SEARCH, {"queries": [["x"] * 1000] * 100}),
        (DRAW, {"specs": [{"seed": 1, "labels": ["x"] * 1000}]}),
        (DRAW, {f"field-{number}": 1 for number in range(1000)}),
    ],
)
async def test_a_bad_body_is_refused_at_its_first_faults(
    http: httpx.AsyncClient, path: str, body: Any
) -> None:
    problem = assert_problem(await http.post(path, json=body), 400, "invalid_request")
    assert len(problem["errors"]) == 1


async def test_a_whole_number_may_be_written_as_a_float(
    store: Store, http: httpx.AsyncClient
) -> None:
    banks.publish(store)
    response = await http.post("/v1/banks/digits/gather", json={"rows": [7.0]})
    assert response.json()["rows"] == [7]
    response = await http.post("/v1/banks/digits/gather", json={"rows": [7.5]})
    assert_problem(response, 400, "invalid_request")


async def test_a_method_not_served_is_told_those_that_are(http: httpx.AsyncClient) -> None:
    response = await http.delete("/v1/banks/digits")
    assert response.headers["allow"] == "GET"


async def test_a_client_that_leaves_during_its_request_is_no_defect(bank: LocalBank) -> None:
    app = create_app(bank, CollectorRegistry())
    scope = {"type": "http", "method": "POST", "path": DRAW, "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 499


async def test_huge_bodies_are_refused(http: httpx.AsyncClient) -> None:
    response = await http.post(DRAW, content=b" " * ((2 << 20) + 1))
    assert_problem(response, 413, "too_large")


@pytest.mark.parametrize("path", ["/v1/banks/digits/gather", DRAW, SEARCH])
async def test_bodies_of_many_values_are_refused_before_they_are_parsed(
    http: httpx.AsyncClient, path: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await http.post(path, content=b"1," * (1 << 18), headers=headers)
    assert "at most 262144 values" in assert_problem(response, 413, "too_large")["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/banks/digits/gather", {"rows": [1] * 65537}, 422, "out_of_range"),
        (DRAW, {"specs": [{"seed": 1, "labels": [1] * 65537}]}, 422, "out_of_range"),
        (SEARCH, {"queries": [[1]], "labels": [1] * 65537}, 422, "out_of_range"),
        (SEARCH, {"queries": [[1]] * 1024, "count": 1000}, 413, "too_large"),
    ],
)
async def test_lists_have_an_end(
    http: httpx.AsyncClient, path: str, body: Any, status: int, code: str
) -> None:
    assert_problem(await http.post(path, json=body), status, code)


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/nowhere", 404), ("/v1/banks/letters", 404)]
)
async def test_a_request_has_an_id_in_its_answer_and_in_its_problem(
    http: httpx.AsyncClient, path: str, status: int
) -> None:
    answer = await http.get(path, headers={"X-Request-Id": "find-me"})
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == "find-me"
    assert status == 200 or answer.json()["request_id"] == "find-me"
    other = await http.get(path, headers={"X-Request-Id": "not an id"})
    assert len(other.headers["x-request-id"]) == 32


async def test_a_request_continues_the_trace_it_belongs_to_and_begins_none(
    http: httpx.AsyncClient,
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with spans_in_memory() as exporter:
        await http.get("/v1/banks")
        await http.get("/v1/banks", headers={"traceparent": f"00-{trace}-{parent}-01"})
        (span,) = exporter.get_finished_spans()
    assert span.name == "GET /v1/banks"
    assert f"{span.context.trace_id:032x}" == trace
    assert f"{span.parent.span_id:016x}" == parent


async def test_defects_do_not_leak(
    bank: LocalBank, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(bank.service, "banks", broken)
    answer = await http.get("/v1/banks")
    assert "secret" not in assert_problem(answer, 500, "internal")["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_readiness_tells_why_not_and_when_to_ask_again(
    store: Store, bank: LocalBank, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/livez")).text == "ok"
    response = await http.get("/readyz")
    assert_problem(response, 503, "not_ready")
    assert int(response.headers["retry-after"]) >= 1
    banks.publish(store)
    bank.host.refresh()
    assert (await http.get("/readyz")).json() == {"ready": True, "problems": []}


async def test_requests_are_counted_by_method_and_outcome(
    store: Store, http: httpx.AsyncClient
) -> None:
    banks.publish(store)
    await http.post(DRAW, json={"specs": [{"seed": 1, "count": 5}]})
    await http.get("/v1/banks/letters")
    text = (await http.get("/metrics")).text
    assert 'gmem_bank_requests_total{code="ok",method="draw"} 1.0' in text
    assert 'gmem_bank_requests_total{code="unknown_bank",method="describe"} 1.0' in text
    assert "gmem_bank_rows_total 5.0" in text
