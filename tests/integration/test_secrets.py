"""API keys never leave by the logs, the metrics or the problems of real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import pytest

from gmem_shared.keys import new_key
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.store import Store
from tests.support import banks
from tests.support.keys import LONG_AGO, keys_file
from tests.support.stack import free_ports, wait_for

ROOT = Path(__file__).parents[2]
KEYS = {
    "good": {"scopes": ["generate", "read", "admin"]},
    "reader": {"scopes": ["read"]},
    "late": {"scopes": ["generate"], "expires": LONG_AGO},
}


def forms(key: str) -> list[dict[str, str]]:
    """The headers a key may be put in, rightly or wrongly."""
    return [
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer   {key}"},
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"X-API-Key": key},
        {"X-Api-Key": f"Bearer {key}"},
        {"Cookie": f"key={key}"},
        {"X-Request-Id": key},
        {"User-Agent": key, "Referer": f"http://x/{key}"},
        {"Accept": key},
        {"Content-Type": key},
    ]


def ask(client: httpx.Client, path: str, key: str) -> list[httpx.Response]:
    """Ask with a key in every header, in the query and in the path."""
    body = {"specs": [{"seed": 1}]} if "banks" in path else {"seed": 1}
    answers = [client.post(path, json=body, headers=headers) for headers in forms(key)]
    in_query = [
        client.post(f"{path}?{name}={key}", json=body)
        for name in ("api_key", "key", "token", "access_token")
    ]
    assert {answer.status_code for answer in in_query} == {401}
    return [*answers, *in_query, client.get(f"/{key}")]


def call(port: int, key: str) -> set[str]:
    """Call with a key in all kinds of metadata; return the codes; no answer has the key."""
    request = bank_pb2.DescribeRequest(bank="digits")
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        describe = bank_pb2_grpc.BankStub(channel).Describe
        for headers in forms(key):
            metadata = [(name.lower(), value) for name, value in headers.items()]
            answer = describe.future(request, metadata=metadata)
            codes.add(answer.code().name)
            assert key not in f"{answer.details()}{answer.trailing_metadata()}"
    return codes


@pytest.mark.parametrize("json_lines", ["true", "false"])
@pytest.mark.parametrize("service", ["serve", "bank serve"])
def test_no_key_is_in_logs_metrics_or_problems(
    tmp_path: Path, service: str, json_lines: str
) -> None:
    made = keys_file(tmp_path / "keys.json", **KEYS)
    made["unknown"], _ = new_key("unknown", ["generate"], None)
    banks.publish(Store.from_url(str(tmp_path / "store"), tmp_path / "cache"))
    http, grpc_port = free_ports(2)
    settings = {
        "GMEM_SECURITY__API_KEYS_FILE": str(tmp_path / "keys.json"),
        "GMEM_STORE__URL": str(tmp_path / "store"),
        "GMEM_GENERATOR__BANK_SOURCE": "tests.support.fakes:FakeBank",
        "GMEM_GENERATOR__BACKEND": "tests.support.fakes:FakeBackend",
        "GMEM_GENERATOR__PORT": str(http),
        "GMEM_BANK__HTTP_PORT": str(http),
        "GMEM_BANK__GRPC_PORT": str(grpc_port),
        "GMEM_LOG__LEVEL": "DEBUG",
        "GMEM_LOG__JSON_LINES": json_lines,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    path = "/generate" if service == "serve" else "/v1/banks/digits/draw"
    url = f"http://127.0.0.1:{http}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gmem_shared", *service.split()],
            env=os.environ | settings, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200, f"{service} is ready")
        with httpx.Client(base_url=url) as client:
            answers = {name: ask(client, path, key) for name, key in made.items()}
            if service == "bank serve":
                codes = {name: call(grpc_port, key) for name, key in made.items()}
                assert codes["good"] == {"OK", "UNAUTHENTICATED"}
                assert codes["late"] == codes["unknown"] == {"UNAUTHENTICATED"}
            metrics = client.get("/metrics").text
    finally:
        process.terminate()
        process.wait(30)

    assert {a.status_code for a in answers["good"]} >= {200, 401}
    assert 200 not in {a.status_code for name in ("late", "unknown") for a in answers[name]}
    written = log.read_text()
    assert "access.keys" in written
    assert "request.finished" in written
    assert service == "serve" or "bank.request.finished" in written
    assert re.search(r"gmem_\w+_refused_total\{code=\"unauthenticated\"\} [1-9]", metrics)
    for key in made.values():
        assert key not in written
        assert key not in metrics
        for answer in [a for some in answers.values() for a in some if a.status_code >= 400]:
            if answer.request.url.path != f"/{key}":  # which says what was asked for
                assert key not in answer.text + str(answer.headers)
