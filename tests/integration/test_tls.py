"""Encrypted connections, with certificates made here."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from gmem_bank.local import LocalBank
from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_server import encryption
from gmem_shared import tls
from gmem_shared.clients.bank import BankClient
from gmem_shared.errors import InvalidRequestError, NotReadyError
from gmem_shared.settings import SecuritySettings, Settings
from gmem_shared.store import Store
from tests.support import banks
from tests.support.certificates import Authority
from tests.support.http_server import served
from tests.support.stack import free_ports, wait_for

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "theirs")


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[LocalBank]:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    banks.publish(store)
    bank = LocalBank(store, banks.settings(), CollectorRegistry())
    await bank.start()
    yield bank
    await bank.close()


def test_the_front_end_serves_https_and_tells_browsers_to_stay(ours, theirs) -> None:
    with served(security=ours.issue("front")) as front:
        assert front.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(ours.certificate))
        answer = httpx.post(f"{front.url}/generate", json={}, verify=trusting)
        assert answer.status_code == 200
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        doubting = ssl.create_default_context(cafile=str(theirs.certificate))
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{front.url}/livez", verify=doubting)


def test_without_a_certificate_browsers_are_told_nothing() -> None:
    with served() as front:
        assert "Strict-Transport-Security" not in httpx.get(f"{front.url}/livez").headers


def client_of(server: Any, **security: Path) -> BankClient:
    address = f"127.0.0.1:{server.port}"
    settings = Settings(bank={"address": address, "timeout_seconds": 3}, security=security)
    return BankClient.from_settings(settings)


def credentials(**security: Path) -> grpc.ServerCredentials:
    found = tls.server_credentials(SecuritySettings(**security))
    assert found is not None
    return found


async def served_by(client: BankClient) -> int:
    await client.start()
    try:
        return (await client.describe("digits")).version.seq
    finally:
        await client.close()


async def test_the_bank_client_calls_a_bank_whose_authority_it_knows(ours, theirs, bank) -> None:
    shown = credentials(**ours.issue("bank"))
    with banks.grpc_service(bank, credentials=shown) as server:
        assert await served_by(client_of(server, tls_ca_file=ours.certificate)) == 1
        with pytest.raises(NotReadyError, match="GMEM_SECURITY__TLS_CA_FILE"):
            await served_by(client_of(server, tls_ca_file=theirs.certificate))
        with pytest.raises(NotReadyError):
            await served_by(client_of(server))


async def test_the_bank_may_ask_its_clients_for_a_certificate(ours, theirs, bank) -> None:
    shown = credentials(**ours.issue("bank"), tls_client_ca_file=ours.certificate)
    known, unknown = ours.issue("front"), theirs.issue("stranger")
    with banks.grpc_service(bank, credentials=shown) as server:
        assert await served_by(client_of(server, tls_ca_file=ours.certificate, **known)) == 1
        for certificate in ({}, unknown):
            with pytest.raises(NotReadyError):
                await served_by(client_of(server, tls_ca_file=ours.certificate, **certificate))


async def test_the_triton_client_speaks_tls_when_told_whom_to_trust(ours, bank) -> None:
    # What answers is no Triton, which is seen only once the handshake was good.
    with banks.grpc_service(bank, credentials=credentials(**ours.issue("triton"))) as server:
        settings = Settings(
            generator={"triton_address": f"127.0.0.1:{server.port}"},
            security={"tls_ca_file": ours.certificate},
        )
        backend = TritonBackend.from_settings(settings)
        await backend.start()
        with pytest.raises(NotReadyError, match=r"(?i)unimplemented|method not found|internal"):
            await backend.check()
        await backend.close()


def test_triton_is_given_the_certificate(ours) -> None:
    files = ours.issue("triton")
    flags = encryption(SecuritySettings(**files))
    assert f"--grpc-server-cert={files['tls_cert_file']}" in flags
    assert encryption(SecuritySettings()) == []


def test_a_process_knows_the_name_that_its_certificate_is_for(ours, tmp_path: Path) -> None:
    assert tls.own_name(SecuritySettings(**ours.issue("service"))) == "localhost"
    assert tls.own_name(SecuritySettings(tls_ca_file=ours.certificate)) is None
    files = ours.issue("nameless")
    files["tls_cert_file"].write_text("no certificate")
    with pytest.raises(InvalidRequestError, match=r"nameless\.pem"):
        tls.own_name(SecuritySettings(**files))


def test_half_a_pair_and_missing_files_stop_the_start(ours, tmp_path: Path) -> None:
    files = ours.issue("front")
    for given in (
        {"tls_cert_file": files["tls_cert_file"]},
        {"tls_key_file": files["tls_key_file"]},
        {"tls_client_ca_file": ours.certificate},
        {"tls_ca_file": tmp_path / "nowhere.pem"},
    ):
        with pytest.raises(ValidationError):
            SecuritySettings(**given)


def test_a_key_that_is_not_the_certificates_stops_the_start(ours) -> None:
    first, second = ours.issue("first"), ours.issue("second")
    mixed = SecuritySettings(**first | {"tls_key_file": second["tls_key_file"]})
    for read in (tls.uvicorn_options, tls.server_credentials):
        with pytest.raises(InvalidRequestError, match="its private key"):
            read(mixed)


def test_the_bank_service_serves_both_doors_encrypted(ours, tmp_path: Path) -> None:
    banks.publish(Store.from_url(str(tmp_path / "store"), tmp_path / "cache"))
    http_port, grpc_port = free_ports(2)
    settings = {
        "GMEM_STORE__URL": str(tmp_path / "store"),
        "GMEM_BANK__HTTP_PORT": str(http_port),
        "GMEM_BANK__GRPC_PORT": str(grpc_port),
        **{f"GMEM_SECURITY__{n.upper()}": str(path) for n, path in ours.issue("bank").items()},
    }
    command = [sys.executable, "-m", "gmem_shared", "bank", "serve"]
    url, trusting = f"https://127.0.0.1:{http_port}", ssl.create_default_context()
    trusting.load_verify_locations(ours.certificate)
    with subprocess.Popen(command, env=os.environ | settings) as process:
        try:
            wait_for(lambda: httpx.get(f"{url}/readyz", verify=trusting).status_code == 200, url)
            headers = httpx.get(f"{url}/v1/banks", verify=trusting).headers
            root = ours.certificate.read_bytes()
            with grpc.secure_channel(
                f"127.0.0.1:{grpc_port}", grpc.ssl_channel_credentials(root)
            ) as channel:
                assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        finally:
            process.terminate()
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert headers["X-Content-Type-Options"] == "nosniff"
