"""The real tritonserver, reached encrypted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_replicas import TritonReplicas
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from tests.support.certificates import Authority
from tests.support.triton import running_triton

pytestmark = pytest.mark.triton


async def check(address: str, **security: Path) -> None:
    settings = Settings(generator={"triton_address": address}, security=security)
    backend = TritonBackend.from_settings(settings)
    await backend.start()
    try:
        await backend.check()
    finally:
        await backend.close()


async def test_with_a_certificate_triton_answers_who_knows_its_authority(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    files = ours.issue("triton") | {"tls_ca_file": ours.certificate}
    extra = {f"GMEM_SECURITY__{name.upper()}": str(path) for name, path in files.items()}
    with running_triton(store_url, tmp_path / "triton", **extra) as server:
        await check(server.address, tls_ca_file=ours.certificate)
        for security in ({"tls_ca_file": theirs.certificate}, {}):
            with pytest.raises(NotReadyError):
                await check(server.address, **security)


async def test_replicas_and_the_probe_know_triton_by_the_name_in_its_certificate(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ours")
    files = authority.issue("triton", addresses=()) | {"tls_ca_file": authority.certificate}
    extra = {f"GMEM_SECURITY__{name.upper()}": str(path) for name, path in files.items()}
    # That it came up means that its probe, which asks 127.0.0.1, was answered.
    with running_triton(store_url, tmp_path / "triton", **extra) as server:
        port = server.address.rpartition(":")[2]
        security = {"tls_ca_file": authority.certificate}
        with pytest.raises(NotReadyError):
            await check(server.address, **security)
        settings = Settings(generator={"triton_address": f"localhost:{port}"}, security=security)
        replicas = TritonReplicas.from_settings(settings)
        await replicas.start()
        try:
            await replicas.check()
        finally:
            await replicas.close()
