"""The bank over real sockets: swaps under load, restarts, health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client import CollectorRegistry

from gmem_bank.local import LocalBank
from gmem_shared import rpc
from gmem_shared.clients.bank import BankClient
from gmem_shared.errors import NotReadyError
from gmem_shared.http_server import HEAD_BYTES
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.store import Store
from gmem_shared.types import DrawSpec, Snippets
from tests.support import banks
from tests.support.stack import free_port

WAIT_SECONDS = 60
CLIENTS = 32
PUBLISHES = 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def local(store: Store, registry: CollectorRegistry) -> AsyncIterator[LocalBank]:
    bank = LocalBank(store, banks.settings(max_open_versions=1), registry)
    await bank.start()
    yield bank
    await bank.close()


@pytest.fixture
async def client(local: LocalBank) -> AsyncIterator[BankClient]:
    with banks.grpc_service(local) as server:
        client = BankClient(f"127.0.0.1:{server.port}", timeout_seconds=30)
        await client.start()
        yield client
        await client.close()


async def test_ten_swaps_under_load_fail_no_request(
    store: Store, client: BankClient, registry: CollectorRegistry
) -> None:
    digests = {1: banks.publish(store, **banks.features(seed=1)).digest}
    stop = asyncio.Event()
    progress = asyncio.Condition()
    answers: list[Snippets] = []

    async def draw_without_pause(number: int) -> None:
        for seed in range(number, 10**9, CLIENTS):
            if stop.is_set():
                return
            specs = [DrawSpec(4, seed), DrawSpec(2, seed, (seed % 4,))]
            first, second = await client.draw("digits", specs)
            assert first.version == second.version
            async with progress:
                answers.append(first)
                progress.notify_all()

    async def seen(seq: int) -> None:
        async with progress:
            await progress.wait_for(lambda: answers and answers[-1].version.seq == seq)

    clients = [asyncio.create_task(draw_without_pause(number)) for number in range(CLIENTS)]
    async with asyncio.timeout(WAIT_SECONDS):
        await seen(1)
        for seq in range(2, PUBLISHES + 2):
            version = await asyncio.to_thread(banks.publish, store, **banks.features(seed=seq))
            digests[seq] = version.digest
            await seen(seq)
        stop.set()
        await asyncio.gather(*clients)

    for snippets in answers:
        seq = snippets.version.seq
        assert snippets.version.digest == digests[seq]
        assert set(snippets.source_ids // 1000) == {seq}, "rows belong to the version named"
    gc.collect()
    assert registry.get_sample_value("gmem_bank_open_snapshots") == 2
    assert registry.get_sample_value("gmem_bank_swaps_total", {"bank": "digits"}) == 11


async def test_health_and_reflection_answer(local: LocalBank) -> None:
    with banks.grpc_service(local) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            for name in ("", "gmem.bank.v1.Bank"):
                request = health_pb2.HealthCheckRequest(service=name)
                assert check(request).status == health_pb2.HealthCheckResponse.SERVING
            database = ProtoReflectionDescriptorDatabase(channel)
            assert "gmem.bank.v1.Bank" in database.get_services()
            service = DescriptorPool(database).FindServiceByName("gmem.bank.v1.Bank")
            assert "Draw" in service.methods_by_name
        server.set_serving(False)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_calls_go_to_all_replicas_in_turn_and_to_those_that_are_left(
    store: Store, local: LocalBank, registry: CollectorRegistry
) -> None:
    banks.publish(store)
    other_registry = CollectorRegistry()
    other = LocalBank(store, banks.settings(), other_registry)
    await other.start()

    def answered(found: CollectorRegistry) -> float:
        labels = {"method": "draw", "code": "ok"}
        return found.get_sample_value("gmem_bank_requests_total", labels) or 0

    with banks.grpc_service(local) as first:
        with banks.grpc_service(other) as second:
            name = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
            client = BankClient(name, timeout_seconds=30)
            await client.start()
            async with asyncio.timeout(WAIT_SECONDS):
                while not (answered(registry) and answered(other_registry)):
                    await client.draw("digits", [DrawSpec(1, 0)])  # until both are connected
            before = answered(registry), answered(other_registry)
            for seed in range(20):
                await client.draw("digits", [DrawSpec(1, seed)])
            assert answered(registry) - before[0] == answered(other_registry) - before[1] == 10
        for seed in range(20):
            await client.draw("digits", [DrawSpec(1, seed)])
        await client.close()
    await other.close()


async def test_a_connection_that_grew_old_is_replaced_without_a_failed_call(
    store: Store, local: LocalBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks.publish(store)
    monkeypatch.setattr(rpc, "_CONNECTION_AGE_MS", 100)
    with banks.grpc_service(local) as server:
        client = BankClient(f"127.0.0.1:{server.port}", timeout_seconds=30)
        await client.start()
        end = asyncio.get_running_loop().time() + 1.5
        while asyncio.get_running_loop().time() < end:
            await asyncio.gather(*(client.draw("digits", [DrawSpec(8, s)]) for s in range(8)))
        await client.close()


async def test_a_draw_larger_than_any_message_arrives(store: Store, local: LocalBank) -> None:
    arrays = banks.features(400)
    arrays["vectors"] = np.tile(arrays["vectors"], 96)  # as wide as published snippets
    banks.publish(store, **arrays)
    spec = DrawSpec(30_000, 1)
    with banks.grpc_service(local) as server:
        client = BankClient(f"127.0.0.1:{server.port}", timeout_seconds=60)
        await client.start()
        [drawn] = await client.draw("digits", [spec])
        await client.close()
    assert drawn.vectors.nbytes > rpc.MESSAGE_BYTES
    [expected] = await local.draw("digits", [spec])
    np.testing.assert_array_equal(drawn.rows, expected.rows)
    np.testing.assert_array_equal(drawn.vectors, expected.vectors)


async def test_administration_and_export(store: Store, local: LocalBank) -> None:
    arrays = banks.features(40_000)
    banks.publish(store, **arrays)
    banks.publish(store, alias="staging", **banks.features(seed=1))
    with (
        banks.grpc_service(local) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = bank_pb2_grpc.BankStub(channel)
        versions = stub.ListVersions(bank_pb2.ListVersionsRequest(name="digits")).versions
        assert [(v.version.seq, list(v.aliases)) for v in versions] == [
            (1, ["production"]),
            (2, ["staging"]),
        ]
        parts = list(stub.Export(bank_pb2.ExportRequest(bank="digits", dtype="float32")))
        assert len(parts) > 1
        assert {part.version.seq for part in parts} == {1}
        assert sum(part.vectors.shape[0] for part in parts) == 40_000
        assert {part.vectors.dtype for part in parts} == {"float32"}

        moved = stub.SetAlias(
            bank_pb2.SetAliasRequest(name="digits", alias="production", selector="staging")
        )
        assert (moved.version.seq, moved.generation) == (2, 2)
        assert stub.Describe(bank_pb2.DescribeRequest(bank="digits")).version.seq == 2
        with pytest.raises(grpc.RpcError) as refused:
            stub.Draw(bank_pb2.DrawRequest(bank="digits@7"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


class Service:
    """`gmem bank serve` as its users run it."""

    def __init__(self, folder: Path) -> None:
        self.http_port, self.grpc_port = free_port(), free_port()
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            "GMEM_STORE__URL": str(self._folder / "store"),
            "GMEM_STORE__CACHE_DIR": str(self._folder / "cache"),
            "GMEM_BANK__HTTP_PORT": str(self.http_port),
            "GMEM_BANK__GRPC_PORT": str(self.grpc_port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", "from gmem_shared.cli import main; main()"]
        self.process = subprocess.Popen([*command, "bank", "serve"], env=environment)

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=WAIT_SECONDS)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGKILL)


async def ready(client: BankClient) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await client.check()
            except NotReadyError:
                await asyncio.sleep(0.05)


async def away(client: BankClient) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await client.check()
            except NotReadyError:
                return


async def serves_nothing(service: Service) -> None:
    async with asyncio.timeout(WAIT_SECONDS), httpx.AsyncClient() as http:
        while True:
            with contextlib.suppress(httpx.ConnectError):
                response = await http.get(f"http://127.0.0.1:{service.http_port}/readyz")
                assert response.status_code == 503
                return
            await asyncio.sleep(0.05)


async def test_stop_finishes_what_is_in_flight(store: Store, service: Service) -> None:
    banks.publish(store, **banks.features(200_000))
    service.start()
    client = BankClient(f"127.0.0.1:{service.grpc_port}", timeout_seconds=20)
    await client.start()
    await ready(client)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
        stub = bank_pb2_grpc.BankStub(channel)
        parts = stub.Export(bank_pb2.ExportRequest(bank="digits")).__aiter__()
        received = (await anext(parts)).rows.shape[0]
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        await away(client)
        async for part in parts:
            received += part.rows.shape[0]
    assert received == 200_000
    assert await asyncio.to_thread(service.process.wait, WAIT_SECONDS) == 0
    await client.close()


async def test_client_recovers_from_a_killed_service(store: Store, service: Service) -> None:
    banks.publish(store)
    client = BankClient(f"127.0.0.1:{service.grpc_port}", timeout_seconds=20)
    await client.start()
    with pytest.raises(NotReadyError, match=f"127.0.0.1:{service.grpc_port}"):
        await client.check()
    service.start()
    await ready(client)
    before = await client.draw("digits", [DrawSpec(8, 1)])

    service.end(signal.SIGKILL)
    with pytest.raises(NotReadyError, match="does not answer") as refused:
        await client.draw("digits", [DrawSpec(8, 1)])
    assert refused.value.retry_after_seconds

    service.start()
    await ready(client)
    after = await client.draw("digits", [DrawSpec(8, 1)])
    assert before[0].rows.tolist() == after[0].rows.tolist()
    await client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_service_starts_empty_serves_what_comes_and_ends_with_status_0(
    store: Store, service: Service, number: signal.Signals
) -> None:
    service.start()
    await serves_nothing(service)
    banks.publish(store)
    client = BankClient(f"127.0.0.1:{service.grpc_port}", timeout_seconds=20)
    await client.start()
    await ready(client)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.http_port}") as http:
        assert (await http.get("/readyz")).json() == {"ready": True, "problems": []}
        drawn = await http.post("/v1/banks/digits@1/draw", json={"specs": [{"seed": 1}]})
        assert drawn.json()["bank"]["seq"] == 1
        assert "gmem_bank_requests_total" in (await http.get("/metrics")).text
    assert await asyncio.to_thread(service.end, number) == 0
    await client.close()


async def test_a_head_without_end_is_refused(store: Store, service: Service) -> None:
    service.start()
    await serves_nothing(service)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.http_port)
    writer.write(b"GET / HTTP/1.1\r\nHost: bank\r\nX: ")
    await asyncio.sleep(0.1)  # until it was read: what follows counts
    writer.write(b"x" * (HEAD_BYTES + 1))
    assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    writer.close()
    await writer.wait_closed()
