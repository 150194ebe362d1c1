"""``gmem serve`` as a process: the address, the signals, the exit status."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from gmem_generator.workers import FAILED_TO_START
from gmem_shared.bank_format import open_bank
from gmem_shared.draw import draw_rows
from gmem_shared.store import Store
from gmem_shared.types import ClassInfo, DrawSpec
from tests.support import banks, fakes
from tests.support.stack import free_ports, wait_for

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    doubles = {
        "GMEM_GENERATOR__BANK_SOURCE": "tests.support.fakes:FakeBank",
        "GMEM_GENERATOR__BACKEND": "tests.support.fakes:FakeBackend",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
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


def test_told_to_stop_it_leaves_before_it_refuses() -> None:
    with process("--port", "0", GMEM_GENERATOR__LEAVE_SECONDS="2") as running:
        address = re.search(r"http://\S+", running.stdout.readline())
        assert address
        running.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{address[0]}/readyz").status_code == 503, "it says so")
        answer = httpx.post(f"{address[0]}/generate", json={})
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
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


SHARED = {"GMEM_GENERATOR__BACKEND": "tests.support.fakes:SharedFakeBackend"}


def address_of(running: subprocess.Popen[str]) -> str:
    line = running.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line
    return found[0]


def is_worker(child: psutil.Process) -> bool:
    """Whether it is alive, and not the helper that multiprocessing has."""
    try:
        return "resource_tracker" not in " ".join(child.cmdline())
    except psutil.Error:  # gone, or nobody has looked at its end yet
        return False


def children(running: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(running.pid).children() if is_worker(child)]


@pytest.fixture
def metrics_port() -> int:
    """The first of two: each worker takes one."""
    return free_ports(2)[0]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_workers_share_a_port_and_end_with_their_parent(stop, metrics_port) -> None:
    port = {"GMEM_GENERATOR__METRICS_PORT": str(metrics_port)}
    with process("--port", "0", "--workers", "2", **SHARED, **port) as running:
        url = address_of(running)
        assert httpx.post(f"{url}/generate", json={}).status_code == 200
        workers = children(running)
        assert len(workers) == 2
        running.send_signal(stop)
        assert running.wait(30) == 0
        assert not any(map(is_worker, workers))


def test_a_worker_that_dies_is_replaced_and_orphans_end(metrics_port) -> None:
    port = {"GMEM_GENERATOR__METRICS_PORT": str(metrics_port)}
    with process("--port", "0", "--workers", "2", **SHARED, **port) as running:
        url = address_of(running)
        first, _ = children(running)
        first.kill()
        wait_for(
            lambda: len(children(running)) == 2 and first not in children(running), "a new worker"
        )
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200, "it serves")
        workers = children(running)
        running.kill()
        running.wait()
        wait_for(lambda: not any(map(is_worker, workers)), "the orphans end")


def test_each_worker_has_a_port_for_its_metrics_and_the_shared_one_has_none(metrics_port) -> None:
    port = {"GMEM_GENERATOR__METRICS_PORT": str(metrics_port)}
    with process("--port", "0", "--workers", "2", **SHARED, **port) as running:
        url = address_of(running)

        def served() -> bool:
            assert running.poll() is None, running.stderr.read()
            pages = [f"http://127.0.0.1:{metrics_port + number}/metrics" for number in range(2)]
            return all("gmem_generator_ready" in httpx.get(page).text for page in pages)

        wait_for(served, "both workers' metrics")
        shared = httpx.get(f"{url}/metrics")
        assert (shared.status_code, shared.json()["code"]) == (409, "conflict")


def test_an_engine_of_this_process_is_not_served_by_several() -> None:
    with process("--workers", "2") as running:
        _, said = running.communicate(timeout=30)
        assert running.returncode != 0
        assert "share" in said


def test_workers_that_cannot_start_stop_it_all(metrics_port) -> None:
    port = {"GMEM_GENERATOR__METRICS_PORT": str(metrics_port)}
    with (
        socket.create_server(("127.0.0.1", metrics_port)),
        process("--port", "0", "--workers", "2", **SHARED, **port) as running,
    ):
        _, said = running.communicate(timeout=30)
        assert running.returncode == FAILED_TO_START
        assert "GMEM_GENERATOR__METRICS_PORT" in said
