"""``gmem serve`` as a process: the address, the signals, the exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gmem_shared.bank_format import open_bank
from gmem_shared.draw import draw_rows
from gmem_shared.store import Store
from gmem_shared.types import ClassInfo, DrawSpec
from tests.support import banks, fakes

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    doubles = {
        "GMEM_GENERATOR__BANK_SOURCE": "tests.support.fakes:FakeBank",
        "GMEM_GENERATOR__BACKEND": "tests.support.fakes:FakeBackend",
        "PYTHONPATH": str(ROOT),
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "gmem_shared", "serve", *arguments],
        env=os.environ | doubles | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_its_address_when_ready_and_exits_0_when_told_to_stop(stop) -> None:
    with process("--port", "0") as running:
        line = running.stdout.readline()
        found = re.fullmatch(r"Serving on (http://\S+) \(studio at /, API docs at /docs\)\n", line)
        assert found, line
        assert httpx.get(f"{found[1]}/readyz").status_code == 200
        assert httpx.post(f"{found[1]}/generate", json={}).status_code == 200
        running.send_signal(stop)
        assert running.wait(30) == 0


def test_the_model_of_requests_that_name_none_may_be_chosen() -> None:
    with process("--port", "0", "--model", "sit") as running:
        line = running.stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, line
        assert httpx.get(f"{address[0]}/models").json()["default"] == "sit@production"


def test_on_the_host_of_the_store_it_maps_the_banks_itself_whatever_the_backend(
    tmp_path: Path,
) -> None:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    classes = [ClassInfo(n, f"class {n}") for n in range(4)]
    arrays = banks.features() | {"classes": classes, "encoder": fakes.ENCODER}
    version = banks.publish(store, **arrays)
    settings = {
        "GMEM_GENERATOR__BANK_SOURCE": "gmem_bank.local:LocalBank",
        "GMEM_STORE__URL": str(tmp_path / "store"),
    }
    with process("--port", "0", **settings) as running:
        address = re.search(r"http://\S+", running.stdout.readline())
        assert address
        body = {"class_label": 2, "num_images": 3, "seed": 5}
        answer = httpx.post(f"{address[0]}/generate", json=body).json()
    assert answer["bank"]["digest"] == version.digest
    drawn = [image["snippets"][0]["row"] for image in answer["images"]]
    data = open_bank(store.repository("banks", "digits").open(version))
    assert drawn == draw_rows(data, [DrawSpec(3, 5, (2,))]).tolist()


def test_an_import_string_that_leads_nowhere_names_its_setting() -> None:
    with process(GMEM_GENERATOR__BACKEND="nowhere:Backend") as running:
        _, said = running.communicate(timeout=30)
        assert running.returncode != 0
        assert "GMEM_GENERATOR__BACKEND" in said
