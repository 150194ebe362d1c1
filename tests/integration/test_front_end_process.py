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


def test_an_import_string_that_leads_nowhere_names_its_setting() -> None:
    with process(GMEM_GENERATOR__BACKEND="nowhere:Backend") as running:
        _, said = running.communicate(timeout=30)
        assert running.returncode != 0
        assert "GMEM_GENERATOR__BACKEND" in said
