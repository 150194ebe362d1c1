from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from gmem_bank import grpc_server, service
from gmem_bank.grpc_server import GrpcServer
from gmem_bank.local import LocalBank
from gmem_shared import tracing
from gmem_shared.clients.bank import STREAM_ROWS, BankClient
from gmem_shared.errors import (
    InternalError,
    NotReadyError,
    TooLargeError,
    UnknownClassError,
    UnknownRowError,
)
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.store import Store
from gmem_shared.types import DrawSpec
from tests.support import banks
from tests.support.tracing import spans_in_memory


@pytest.fixture
async def bank(store: Store) -> AsyncIterator[LocalBank]:
    bank = LocalBank(store, banks.settings(max_rows=10**6), CollectorRegistry())
    yield bank
    await bank.close()


def test_answers_beyond_the_unary_limit_point_to_export(
    store: Store, bank: LocalBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks.publish(store)
    monkeypatch.setattr(service, "UNARY_BYTES", 600)
    with (
        banks.grpc_service(bank) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = bank_pb2_grpc.BankStub(channel)
        ten = stub.Gather(bank_pb2.GatherRequest(bank="digits", rows=range(10)))
        assert ten.ByteSize() < 1000
        with pytest.raises(grpc.RpcError, match=r"at most 10 rows .* use Export"):
            stub.Gather(bank_pb2.GatherRequest(bank="digits", rows=range(11)))


async def test_many_rows_come_as_a_stream_and_are_the_same(
    store: Store, bank: LocalBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks.publish(store)
    monkeypatch.setattr(service, "UNARY_BYTES", 600)
    monkeypatch.setattr(service, "PART_BYTES", 6000)
    count = 2 * STREAM_ROWS
    specs = [DrawSpec(count, 1), DrawSpec(3, 2, (1,))]
    rows = [row % 40 for row in range(count)]
    with banks.grpc_service(bank) as server:
        client = BankClient(f"127.0.0.1:{server.port}")
        await client.start()
        drawn = await client.draw("digits", specs)
        gathered = await client.gather("digits", rows)
        await client.close()
    assert [len(part) for part in drawn] == [count, 3]
    expected = [*await bank.draw("digits", specs), await bank.gather("digits", rows)]
    for one, other in zip([*drawn, gathered], expected, strict=True):
        assert one.version == other.version
        for column in ("vectors", "rows", "source_ids", "labels", "weights"):
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


async def test_what_is_wrong_with_a_stream_is_told(store: Store, bank: LocalBank) -> None:
    banks.publish(store)
    with banks.grpc_service(bank) as server:
        client = BankClient(f"127.0.0.1:{server.port}")
        await client.start()
        with pytest.raises(UnknownRowError, match="found 40"):
            await client.gather("digits", [*range(40)] * STREAM_ROWS + [40])
        with pytest.raises(TooLargeError, match="at most 1000000 rows"):
            await client.draw("digits", [DrawSpec(10**6 + 1, 0)])
        with pytest.raises(UnknownClassError):
            await client.draw("digits", [DrawSpec(2 * STREAM_ROWS, 0, (9,))])
        await client.close()


def test_exports_leave_threads_for_draws(store: Store, bank: LocalBank) -> None:
    banks.publish(store, **banks.features(200_000))
    with (
        banks.grpc_service(bank) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = bank_pb2_grpc.BankStub(channel)
        request = bank_pb2.ExportRequest(bank="digits")
        running = [stub.Export(request), stub.Export(request)]
        for export in running:
            next(export)  # it runs now, and waits for its reader
        refused = stub.Export(request)
        with pytest.raises(grpc.RpcError) as caught:
            next(refused)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        spec = bank_pb2.DrawSpec(count=1, all_labels=True)
        drawn = stub.Draw(bank_pb2.DrawRequest(bank="digits", specs=[spec]))
        assert list(drawn.counts) == [1]
        for export in running:
            assert sum(1 for _ in export) > 0
        assert sum(part.rows.shape[0] for part in stub.Export(request)) == 200_000


def test_taken_port_is_told(bank: LocalBank) -> None:
    with banks.grpc_service(bank) as server:
        second = GrpcServer(bank.service, 1, "127.0.0.1", server.port)
        with pytest.raises(NotReadyError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            second.start()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The bank's log lines about requests."""
    entries: list[dict] = []

    def note(logger: object, method: str, event: dict) -> str:
        entries.append(dict(event))
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[structlog.contextvars.merge_contextvars, note])
    monkeypatch.setattr(grpc_server, "_log", log)
    return entries


async def test_each_call_is_logged_once_with_the_request_it_is_made_for(
    store: Store, bank: LocalBank, logged: list[dict]
) -> None:
    banks.publish(store)
    with banks.grpc_service(bank) as server:
        client = BankClient(f"127.0.0.1:{server.port}")
        await client.start()
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            await client.draw("digits", [DrawSpec(1, 1)])
            await client.draw("digits", [DrawSpec(2 * STREAM_ROWS, 1)])
            with pytest.raises(UnknownRowError):
                await client.gather("digits", [40])
        await client.describe("digits")
        await client.close()
    found = [(e["method"], e["code"], e.get("request_id")) for e in logged]
    assert found == [
        ("Draw", "ok", "r1"),
        ("StreamDraw", "ok", "r1"),
        ("Gather", "unknown_row", "r1"),
        ("Describe", "ok", None),
    ]
    assert {entry["event"] for entry in logged} == {"bank.request.finished"}


async def test_a_defect_is_logged_with_the_request_it_broke(
    store: Store, bank: LocalBank, logged: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    banks.publish(store)
    monkeypatch.setattr(bank.service, "describe", broken)
    with banks.grpc_service(bank) as server:
        client = BankClient(f"127.0.0.1:{server.port}")
        await client.start()
        with structlog.contextvars.bound_contextvars(request_id="r1"), pytest.raises(InternalError):
            await client.describe("digits")
        await client.close()
    assert [(e["event"], e["request_id"]) for e in logged] == [
        ("bank.request.failed", "r1"),
        ("bank.request.finished", "r1"),
    ]


async def test_a_call_continues_the_trace_it_belongs_to_and_begins_none(
    store: Store, bank: LocalBank
) -> None:
    banks.publish(store)
    with spans_in_memory() as exporter, banks.grpc_service(bank) as server:
        client = BankClient(f"127.0.0.1:{server.port}")
        await client.start()
        await client.describe("digits")
        with tracing.span("bank.draw", client=True):
            await client.draw("digits", [DrawSpec(1, 1)])
        await client.close()
        served, asked = sorted(exporter.get_finished_spans(), key=lambda span: span.name)
    assert (served.name, asked.name) == ("bank.Draw", "bank.draw")
    assert served.parent.span_id == asked.context.span_id
    assert served.context.trace_id == asked.context.trace_id
