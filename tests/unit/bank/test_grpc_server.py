from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from prometheus_client import CollectorRegistry

from gmem_bank import service
from gmem_bank.grpc_server import GrpcServer
from gmem_bank.local import LocalBank
from gmem_shared.errors import NotReadyError
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.store import Store
from tests.support import banks


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
        second = GrpcServer(bank.service, bank.pool, 1, "127.0.0.1", server.port)
        with pytest.raises(NotReadyError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            second.start()
