from __future__ import annotations

import subprocess
import sys
import time

import pytest
import structlog
from structlog.contextvars import get_contextvars

from gmem_shared import tracing
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import TracingSettings
from tests.support.stack import free_port
from tests.support.tracing import spans_in_memory

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CARRIER = {tracing.REQUEST_ID: "r1", tracing.TRACEPARENT: f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def spans():
    with spans_in_memory() as exporter:
        yield exporter.get_finished_spans


@pytest.mark.parametrize("ids", ["r1", "trace-1.b_C", "a,b,c", "x" * 64])
def test_log_lines_carry_the_ids_of_all_that_something_is_done_for(ids) -> None:
    assert tracing.identity({tracing.REQUEST_ID: ids}) == {"request_id": ids}


@pytest.mark.parametrize(
    "offered", ["", "a b", "x" * 65, "a,", ",a", "a\n", 'a"b', "gmem_secret", "a,gmem_secret"]
)
def test_whatever_else_is_sent_as_an_id_is_not_logged(offered) -> None:
    assert tracing.identity({tracing.REQUEST_ID: offered}) == {}
    assert not tracing.is_id(offered)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_only_the_standard_variables_turn_tracing_on(monkeypatch, variables, wanted) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert TracingSettings().wanted is wanted


def test_without_the_sdk_one_is_told_what_to_install(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(NotReadyError, match=r"pip install 'gmem-serving\[tracing\]'"):
        tracing.configure("gmem-bank")


def test_the_sdk_is_not_imported_while_tracing_is_off() -> None:
    code = (
        "import sys, gmem_generator.app; from gmem_shared import tracing; "
        "tracing.configure('gmem-generator')\n"
        "with tracing.serving('x', {}), tracing.span('y'): tracing.outgoing()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_collector_that_is_away_neither_fails_a_process_nor_keeps_it(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    tracing.configure("gmem-bank")
    with tracing.serving("x", {}, begins=True):
        pass
    started = time.monotonic()
    tracing.close()
    assert time.monotonic() - started < 5


def test_a_request_goes_on_with_its_id() -> None:
    assert tracing.outgoing() == {}
    with tracing.serving("bank.Draw", CARRIER):
        assert tracing.request_id() == "r1"
        assert tracing.outgoing() == {tracing.REQUEST_ID: "r1"}
    assert tracing.request_id() is None


def test_log_lines_carry_id_and_trace_of_their_request_and_no_other(spans) -> None:
    with tracing.serving("bank.Draw", CARRIER):
        assert get_contextvars() == {"request_id": "r1", "trace_id": TRACE}
    assert get_contextvars() == {}
    with tracing.serving("POST", {tracing.REQUEST_ID: "r2"}, begins=True):
        trace = get_contextvars()["trace_id"]
    (_, root) = spans()
    assert int(trace, 16) == root.context.trace_id


def test_a_trace_that_came_along_is_continued_and_handed_on(spans) -> None:
    with tracing.serving("bank.Draw", CARRIER), tracing.span("inner", client=True):
        handed_on = tracing.outgoing()[tracing.TRACEPARENT]
    inner, server = spans()
    assert f"{server.parent.span_id:016x}" == PARENT
    assert inner.parent == server.context
    assert handed_on == f"00-{TRACE}-{inner.context.span_id:016x}-01"
    assert (server.kind.name, inner.kind.name) == ("SERVER", "CLIENT")


def test_only_the_front_end_begins_a_trace(spans) -> None:
    with tracing.serving("bank.ListBanks", {}):
        pass
    tracing.record({"queue": 1.0}, time.time(), {})
    assert spans() == ()
    with tracing.serving("POST /generate", {}, begins=True):
        pass
    assert [span.name for span in spans()] == ["POST /generate"]


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-0-0-01", "00-" + "g" * 32 + "-x-01"])
def test_a_bad_traceparent_begins_a_trace_of_its_own(spans, traceparent) -> None:
    with tracing.serving("x", {tracing.TRACEPARENT: traceparent}, begins=True):
        pass
    (span,) = spans()
    assert span.parent is None


def test_what_was_measured_becomes_spans_one_after_the_other(spans) -> None:
    tracing.record({"queue": 1.0, "denoise": 2.0, "decode": 0.5}, 1000.0, CARRIER)
    times = [(span.name, span.start_time, span.end_time) for span in spans()]
    assert times == [
        ("queue", 996_500_000_000, 997_500_000_000),
        ("denoise", 997_500_000_000, 999_500_000_000),
        ("decode", 999_500_000_000, 1000_000_000_000),
    ]
    assert {f"{span.parent.span_id:016x}" for span in spans()} == {PARENT}


def test_a_failed_answer_fails_its_span(spans) -> None:
    with tracing.serving("/generate", {}, begins=True) as span:
        tracing.answered(span, "POST /generate", 503)
    (failed,) = spans()
    assert failed.name == "POST /generate"
    assert failed.status.status_code.name == "ERROR"
    assert failed.attributes == {"http.response.status_code": 503}


def test_the_present_span_is_told_facts(spans) -> None:
    with tracing.span("generate"):
        tracing.describe(images=4, model="digits@1")
    (span,) = spans()
    assert span.attributes == {"gmem.images": 4, "gmem.model": "digits@1"}


async def test_a_traced_coroutine_is_a_span_and_fails_with_it(spans) -> None:
    @tracing.traced("work")
    async def work(number: int) -> int:
        return 1 // number

    assert await work(1) == 1
    with pytest.raises(ZeroDivisionError):
        await work(0)
    assert [span.status.status_code.name for span in spans()] == ["UNSET", "ERROR"]


@pytest.fixture(autouse=True)
def _clean():
    structlog.contextvars.clear_contextvars()
