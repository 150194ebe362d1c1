"""One request, followed through all three processes: by its id in their logs, and as one trace."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.stack import Stack, running_stack, wait_for
from tests.support.tracing import Receiver, receiving

pytestmark = pytest.mark.triton

TRITONS_OWN = re.compile(r"[IWE]\d{4} ")
"""How Triton's own messages begin; it has no other form for them."""


@dataclass
class Followed:
    """A stack that logs JSON and sends its traces to us."""

    stack: Stack
    receiver: Receiver

    def generate(self, request_id: str, trace: str = "", **request: Any) -> httpx.Response:
        headers = {"X-Request-Id": request_id}
        if trace:
            headers["traceparent"] = f"00-{trace}-{'c' * 16}-01"
        return httpx.post(f"{self.stack.url}/generate", json=request, headers=headers, timeout=60)

    def log(self, part: str) -> list[dict[str, Any]]:
        """Every line of a process's log, each of which is a JSON object."""
        text = (self.stack.directory / f"{part}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if not TRITONS_OWN.match(line)]

    def lines(self, request_id: str) -> dict[str, list[dict[str, Any]]]:
        """What each process said of a request."""
        found = {
            part: [line for line in self.log(part) if request_id in str(line.get("request_id"))]
            for part in self.stack.parts
        }
        return {part: lines for part, lines in found.items() if lines}

    def events(self, request_id: str) -> dict[str, tuple[str, Any]]:
        """The last event of each process about a request, and how it ended there."""
        return {
            part: (lines[-1]["event"], lines[-1].get("status") or lines[-1].get("code"))
            for part, lines in self.lines(request_id).items()
        }


@pytest.fixture(scope="module")
def followed(digits_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    with receiving() as receiver:
        variables = {
            "GMEM_LOG__JSON_LINES": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        folder = tmp_path_factory.mktemp("followed")
        with running_stack(str(digits_store), folder, embedded=False, **variables) as stack:
            stack.generate(class_label=1)  # so that bank and model are known
            yield Followed(stack, receiver)


def test_one_request_is_one_trace_of_three_processes(followed) -> None:
    trace = "1" * 32
    answer = followed.generate("r-trace", trace, class_label=7, num_images=4, num_steps=20, seed=1)
    assert answer.status_code == 200, answer.text
    wait_for(lambda: len(followed.receiver.of_trace(trace)) == 8, "the spans of a request", 30)
    spans = followed.receiver.of_trace(trace)
    parents = {span.id: name for name, span in spans.items()} | {"c" * 16: "the client's"}
    assert {name: (span.service, parents[span.parent]) for name, span in spans.items()} == {
        "POST /generate": ("gmem-generator", "the client's"),
        "generate": ("gmem-generator", "POST /generate"),
        "bank.draw": ("gmem-generator", "generate"),
        "bank.Draw": ("gmem-bank", "bank.draw"),
        "queue": ("gmem-engine", "generate"),
        "denoise": ("gmem-engine", "generate"),
        "decode": ("gmem-engine", "generate"),
        "encode": ("gmem-generator", "generate"),
    }
    order = ["bank.draw", "queue", "denoise", "decode", "encode"]
    starts = [spans[name].seconds[0] for name in order]
    assert starts == sorted(starts)
    begin, end = spans["generate"].seconds
    assert all(begin <= spans[name].seconds[0] <= spans[name].seconds[1] <= end for name in order)
    denoise = spans["denoise"].seconds
    said = answer.json()["timings_ms"]["denoise"] / 1000
    assert denoise[1] - denoise[0] == pytest.approx(said, abs=0.001)


def test_a_request_without_a_trace_begins_one_and_a_probe_does_not(followed) -> None:
    httpx.get(f"{followed.stack.url}/readyz", timeout=10)
    assert followed.generate("r-root", class_label=1).status_code == 200
    (line,) = followed.lines("r-root")["generator"]
    wait_for(lambda: "encode" in followed.receiver.of_trace(line["trace_id"]), "a trace", 30)
    root = followed.receiver.of_trace(line["trace_id"])["POST /generate"]
    assert root.parent == ""
    assert not [span for span in followed.receiver.spans if "readyz" in span.name]
    assert not [span for span in followed.receiver.spans if span.name == "bank.ListBanks"]


def test_one_id_is_in_the_logs_of_all_three_processes(followed) -> None:
    answer = followed.generate("r-42", "2" * 32, class_label=7)
    assert answer.headers["X-Request-Id"] == "r-42"
    wait_for(lambda: len(followed.lines("r-42")) == 3, "lines of all three processes", 10)
    assert followed.events("r-42") == {
        "generator": ("request.finished", 200),
        "bank": ("bank.request.finished", "ok"),
        "triton": ("engine.task.finished", "ok"),
    }
    for lines in followed.lines("r-42").values():
        assert {line["trace_id"] for line in lines} == {"2" * 32}


def test_requests_that_share_a_draw_are_all_named(followed) -> None:
    import concurrent.futures

    ids = [f"shared-{number:02}" for number in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda each: followed.generate(each, class_label=1), ids))
    assert {answer.status_code for answer in answers} == {200}
    wait_for(lambda: all(len(followed.lines(each)) == 3 for each in ids), "every id", 10)


def test_what_the_bank_refuses_is_found_in_its_log(followed) -> None:
    answer = followed.generate("r-row", memory={"rows": [10**6]})
    assert answer.status_code == 404
    wait_for(lambda: len(followed.lines("r-row")) == 2, "lines of two processes", 10)
    assert followed.events("r-row") == {
        "generator": ("request.finished", 404),
        "bank": ("bank.request.finished", answer.json()["code"]),
    }


def test_what_the_engine_fails_is_found_in_its_log(followed) -> None:
    answer = followed.generate("r-late", num_images=256, num_steps=900, deadline_ms=300)
    assert answer.status_code == 504
    wait_for(lambda: "triton" in followed.lines("r-late"), "a line of the engine", 10)
    event, code = followed.events("r-late")["triton"]
    assert event == "engine.task.finished"
    assert code in {"deadline_exceeded", "cancelled"}  # whoever noticed first


def test_an_id_that_is_none_is_replaced(followed) -> None:
    answer = followed.generate('bad"id{', class_label=1)
    given = answer.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", given)
    wait_for(lambda: len(followed.lines(given)) == 3, "lines of all three processes", 10)
