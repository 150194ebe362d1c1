"""What the front end hands on with a request, and the trace it makes of it."""

from __future__ import annotations

import pytest

from tests.support.tracing import spans_in_memory


@pytest.fixture
def spans():
    with spans_in_memory() as exporter:

        def by_name() -> dict[str, object]:
            return {span.name: span for span in exporter.get_finished_spans()}

        yield by_name


async def test_a_request_is_a_trace_from_its_door_to_its_images(front, spans) -> None:
    await front.client.post("/generate", json={"class_label": 7, "num_images": 3, "seed": 1})
    found = spans()
    parents = {name: span.parent and span.parent.span_id for name, span in found.items()}
    ids = {name: span.context.span_id for name, span in found.items()}
    assert parents == {
        "POST /generate": None,
        "generate": ids["POST /generate"],
        "bank.draw": ids["generate"],
        "encode": ids["generate"],
    }
    facts = found["generate"].attributes
    assert facts["gmem.images"] == 3
    assert facts["gmem.bank"] == "digits@1"
    assert found["POST /generate"].attributes["http.response.status_code"] == 200


async def test_only_what_fails_here_fails_the_span(front, spans) -> None:
    await front.client.post("/generate", json={"class_label": "eleventy"})
    assert spans()["POST /generate"].status.status_code.name == "UNSET"
    front.backend.fail_after = (0, ZeroDivisionError("secret"))
    await front.client.post("/generate", json={})
    assert spans()["POST /generate"].status.status_code.name == "ERROR"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_begin_no_trace(front, spans, path) -> None:
    await front.client.get(path)
    assert spans() == {}


async def test_the_task_of_the_engine_carries_the_request_id(front) -> None:
    await front.client.post("/generate", json={}, headers={"X-Request-Id": "r1"})
    (task,) = front.backend.tasks
    assert task.request_id == "r1"
