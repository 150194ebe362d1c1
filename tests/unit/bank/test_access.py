"""Who may ask the bank, on both doors."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client import CollectorRegistry
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from gmem_bank.access import Access, scope_of_method
from gmem_bank.grpc_server import SERVICE_NAME
from gmem_bank.http_app import create_app
from gmem_bank.local import LocalBank
from gmem_shared.clients.bank import STREAM_ROWS, BankClient
from gmem_shared.errors import ForbiddenError, UnauthenticatedError
from gmem_shared.keys import Keyring
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from gmem_shared.types import DrawSpec
from tests.support import banks
from tests.support.keys import bearer, keys_file

KEYS = {"reader": {"scopes": ["read"]}, "admin": {"scopes": ["admin"]}}


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return keys_file(tmp_path / "keys.json", **KEYS)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def access(keys, tmp_path: Path, registry) -> Access:
    return Access(Keyring(tmp_path / "keys.json"), registry)


@pytest.fixture
async def bank(store: Store) -> AsyncIterator[LocalBank]:
    banks.publish(store)
    bank = LocalBank(store, banks.settings(), CollectorRegistry())
    bank.host.refresh()
    yield bank
    await bank.close()


@pytest.fixture
async def http(bank: LocalBank, access, registry) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(bank, registry, access))
    async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
        yield client


REQUESTS = [
    ("GET", "/v1/banks", None, "reader"),
    ("GET", "/v1/banks/digits/versions", None, "reader"),
    ("GET", "/v1/banks/digits/snippets/3", None, "reader"),
    ("POST", "/v1/banks/digits/draw", {"specs": [{"seed": 1}]}, "reader"),
    ("POST", "/v1/banks/digits/gather", {"rows": [1]}, "reader"),
    ("POST", "/v1/banks/digits/search", {"queries": [[1] * banks.DIMENSION]}, "reader"),
    ("PUT", "/v1/banks/digits/aliases/staging", {"selector": "1"}, "admin"),
]


@pytest.mark.parametrize(("method", "path", "body", "who"), REQUESTS)
async def test_http_reads_need_a_key_that_reads_and_changes_one_that_changes(
    http, keys, registry, method, path, body, who
) -> None:
    other = next(id for id in keys if id != who)
    refused = [
        (None, 401, "unauthenticated"),
        ("gmem_unknown", 401, "unauthenticated"),
        (keys[other], 403, "forbidden"),
    ]
    for key, status, code in refused:
        answer = await http.request(method, path, json=body, headers=bearer(key) if key else None)
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
    good = await http.request(method, path, json=body, headers=bearer(keys[who]))
    assert good.status_code == 200
    assert registry.get_sample_value("gmem_bank_refused_total", {"code": "unauthenticated"}) == 2


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/openapi.json"])
async def test_http_health_and_metrics_are_open(http, path) -> None:
    assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/v1/banks"])
async def test_every_answer_carries_the_security_headers(http, path) -> None:
    headers = (await http.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "strict-transport-security" not in headers


async def test_the_client_sends_its_key_with_every_kind_of_call(
    bank, access, keys, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(keys["reader"] + "\n")
    with banks.grpc_service(bank, guard=access.grpc()) as server:
        address = f"127.0.0.1:{server.port}"
        settings = Settings(bank={"address": address, "api_key_file": tmp_path / "key"})
        client = BankClient.from_settings(settings)
        await client.start()
        await client.check()
        assert len(await client.banks()) == 1
        assert (await client.describe("digits")).version.seq == 1
        assert len((await client.draw("digits", [DrawSpec(2 * STREAM_ROWS, 1)]))[0]) > STREAM_ROWS
        assert len(await client.gather("digits", [1, 2])) == 2
        query = np.ones((1, banks.DIMENSION), np.float32)
        assert (await client.search("digits", query, 3)).rows.shape == (1, 3)
        await client.close()


@pytest.mark.parametrize(
    ("key", "error"), [(None, UnauthenticatedError), ("admin", ForbiddenError)]
)
async def test_the_client_is_told_what_is_wrong_with_its_key(
    bank, access, keys, key, error
) -> None:
    with banks.grpc_service(bank, guard=access.grpc()) as server:
        client = BankClient(f"127.0.0.1:{server.port}", api_key=key and keys[key])
        await client.start()
        with pytest.raises(error):
            await client.draw("digits", [DrawSpec(1, 1)])
        with pytest.raises(error):
            await client.draw("digits", [DrawSpec(2 * STREAM_ROWS, 1)])
        await client.close()


async def test_grpc_moves_an_alias_only_for_an_admin(bank, access, keys) -> None:
    request = bank_pb2.SetAliasRequest(name="digits", alias="staging", selector="1")
    with (
        banks.grpc_service(bank, guard=access.grpc()) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = bank_pb2_grpc.BankStub(channel)
        for key, code in ((None, "UNAUTHENTICATED"), ("reader", "PERMISSION_DENIED")):
            metadata = key and [("authorization", f"Bearer {keys[key]}")]
            with pytest.raises(grpc.RpcError) as refused:
                stub.SetAlias(request, metadata=metadata)
            assert refused.value.code().name == code
        moved = stub.SetAlias(request, metadata=[("x-api-key", keys["admin"])])
        assert moved.generation == 1


async def test_grpc_health_and_reflection_are_open(bank, access) -> None:
    with (
        banks.grpc_service(bank, guard=access.grpc()) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest()).status == 1
        assert SERVICE_NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs(processors=[merge_contextvars]) as events:
        yield events


async def test_the_log_names_who_called_over_grpc(bank, access, keys, logged) -> None:
    request = bank_pb2.SetAliasRequest(name="digits", alias="staging", selector="1")
    with (
        banks.grpc_service(bank, guard=access.grpc()) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = bank_pb2_grpc.BankStub(channel)
        for who in ("admin", "reader", None):
            metadata = [("x-request-id", f"r-{who}")]
            metadata += [] if who is None else [("x-api-key", keys[who])]
            with contextlib.suppress(grpc.RpcError):
                stub.SetAlias(request, metadata=metadata)
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    finished = [e for e in logged if e["event"] == "bank.request.finished"]
    assert [(e["method"], e["code"], e.get("caller"), e["request_id"]) for e in finished] == [
        ("SetAlias", "ok", "admin", "r-admin"),
        ("SetAlias", "forbidden", "reader", "r-reader"),
        ("SetAlias", "unauthenticated", None, "r-None"),
    ]
    assert [e["caller"] for e in logged if e["event"] == "store.alias.moved"] == ["admin"]


async def test_the_log_names_who_asked_over_http(http, keys, logged) -> None:
    path = "/v1/banks/digits/aliases/staging"
    for who in ("admin", "reader", None):
        headers = {"X-Request-Id": f"r-{who}"} | ({} if who is None else bearer(keys[who]))
        await http.put(path, json={"selector": "1"}, headers=headers)
    finished = [e for e in logged if e["event"] == "request.finished"]
    assert [(e["path"], e["status"], e.get("caller"), e["request_id"]) for e in finished] == [
        (path, 200, "admin", "r-admin"),
        (path, 403, "reader", "r-reader"),
        (path, 401, None, "r-None"),
    ]
    assert [e["caller"] for e in logged if e["event"] == "store.alias.moved"] == ["admin"]


def half_open(channel: grpc.Channel, method: str, key: str | None = None) -> grpc.Future:
    """A call that is begun and never sends its message."""

    def nothing() -> Iterator[bytes]:
        stop.wait()
        yield from ()

    stop = threading.Event()
    call = channel.stream_stream(method)(
        nothing(), metadata=[] if key is None else [("x-api-key", key)]
    )
    call.add_callback(stop.set)
    return call


@pytest.mark.parametrize(
    ("method", "who"),
    [
        (f"/{SERVICE_NAME}/Draw", None),
        (f"/{SERVICE_NAME}/Draw", "reader"),
        ("/grpc.health.v1.Health/Check", None),
        ("/grpc.health.v1.Health/Watch", None),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None),
    ],
)
async def test_calls_that_never_send_their_message_stop_no_draw(
    bank, http, access, keys, method, who
) -> None:
    body = {"specs": [{"seed": 1}]}
    with (
        banks.grpc_service(bank, guard=access.grpc()) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        calls = [half_open(channel, method, who and keys[who]) for _ in range(40)]
        client = BankClient(f"127.0.0.1:{server.port}", api_key=keys["reader"])
        await client.start()
        for seed in range(8):
            assert len((await client.draw("digits", [DrawSpec(256, seed)]))[0]) == 256
        await client.close()
        drawn = await http.post("/v1/banks/digits/draw", json=body, headers=bearer(keys["reader"]))
        assert drawn.status_code == 200
        for call in calls:
            call.cancel()


async def test_a_call_without_a_key_is_refused_before_its_message(bank, access) -> None:
    with (
        banks.grpc_service(bank, guard=access.grpc()) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        call = half_open(channel, f"/{SERVICE_NAME}/Draw")
        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_answers_again_when_the_calls_that_kept_it_end(bank, access) -> None:
    with (
        banks.grpc_service(bank, guard=access.grpc()) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        calls = [half_open(channel, "/grpc.health.v1.Health/Check") for _ in range(40)]
        until(lambda: sum(call.done() for call in calls) == 40 - 16)
        with pytest.raises(grpc.RpcError, match="at most 16 calls at once"):
            check(health_pb2.HealthCheckRequest())
        for call in calls:
            call.cancel()
        until(lambda: _serving(check))


def _serving(check: Any) -> bool:
    try:
        return check(health_pb2.HealthCheckRequest()).status == 1
    except grpc.RpcError:
        return False


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.01)


def test_a_method_that_is_not_known_to_read_is_for_admins() -> None:
    scopes = {
        method.name: scope_of_method(f"/{SERVICE_NAME}/{method.name}")
        for method in bank_pb2.DESCRIPTOR.services_by_name["Bank"].methods
    }
    assert scopes.pop("SetAlias") == "admin"
    assert set(scopes.values()) == {"read"}
    assert scope_of_method(f"/{SERVICE_NAME}/Delete") == "admin"
