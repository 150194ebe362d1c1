"""Every expression of dashboards and rules, asked of a real Prometheus over the real stack."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from gmem_shared.store import Store
from tests.support.observability import OURS, panel_expressions, rule_expressions, rules
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.promql import for_prometheus, names
from tests.support.stack import Stack, free_port, running_stack, wait_for

pytestmark = [pytest.mark.triton, pytest.mark.prometheus]

WINDOW = "15s"

LIMITS = {"GMEM_GENERATOR__MAX_WAITING_IMAGES": "128"}
"""Full with two large requests."""

ONLY_AFTER_A_FAILURE = {
    "gmem_engine_swap_failures_total",
    "gmem_generator_refused_total",
    "gmem_generator_quota_uncounted_total",
    "gmem_bank_refused_total",
}
"""Metrics without a series while all is well. That they are counted, tests of their own show; that
their alerts fire, the tests of the rules."""

PANELS = list(panel_expressions())
RULES = [*rule_expressions("alert"), *rule_expressions("record")]


@dataclass
class Watched:
    """A stack that has seen some of everything, and the Prometheus that saw it."""

    stack: Stack
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(digits_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    store = folder / "store"
    shutil.copytree(digits_store, store)
    trainer_port = free_port()
    with (
        running_stack(str(store), folder / "stack", embedded=False, **LIMITS) as stack,
        training(store, folder, trainer_port),
        running_prometheus(
            folder / "prometheus",
            generator=stack.ports["http"],
            bank=stack.ports["bank_http"],
            triton=stack.ports["triton_metrics"],
            trainer=trainer_port,
        ) as prometheus,
    ):
        publish_a_broken_bank(store)
        deadline = time.monotonic() + 120
        live(stack)
        publish_another_version(store)
        while time.monotonic() < deadline and not prometheus.now(
            'gmem_trainer_stage{stage="done"} == 1'
        ):
            live(stack)
        live(stack)
        time.sleep(3)  # until it was scraped, and the recorded rules evaluated
        yield Watched(stack, prometheus)


@contextlib.contextmanager
def training(store: Path, folder: Path, port: int) -> Iterator[None]:
    """A short run of the real trainer; what it publishes is followed by the services."""
    command = ["train", "--preset", "digits", "--seed", "1", "--store", str(store)]
    options = ["--steps", "100", "--workdir", str(folder / "work"), "--min-accuracy", "0"]
    metrics = {"GMEM_TRAINER__METRICS_PORT": str(port)}
    with (folder / "trainer.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gmem_shared", *command, *options],
            env=os.environ | metrics, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        process.wait()


def live(stack: Stack) -> None:
    """Some seconds of an ordinary day: answers, refusals, deadlines, and clients that leave."""
    for seed in range(10):
        stack.generate(class_label=seed, num_images=4, num_steps=8, seed=seed)
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        client.post("/generate", json={"class_label": 99})
        client.post("/generate", json={"num_images": 64, "num_steps": 500, "deadline_ms": 400})
        client.get("/readyz")
        client.get("/banks")
        job = client.post("/generate", json={"num_images": 8}, headers={"Prefer": "respond-async"})
        assert job.status_code == 202, job.text
        with contextlib.suppress(httpx.ReadTimeout):
            client.post("/generate", json={"num_images": 64, "num_steps": 500}, timeout=0.4)
    with ThreadPoolExecutor(4) as crowd:
        large = {"num_images": 64, "num_steps": 100, "deadline_ms": 2000}
        list(crowd.map(lambda _: httpx.post(f"{stack.url}/generate", json=large), range(4)))
    for _ in range(3):
        time.sleep(1)
        stack.generate(memory={"rows": [3]}, num_steps=4)


def publish_another_version(store: Path) -> None:
    """Move an alias that services follow."""
    subprocess.run(
        [
            sys.executable, "-m", "gmem_shared", "bank", "tombstone", "digits",
            "--row", "0", "--alias", "production",
        ],
        env=os.environ | {"GMEM_STORE__URL": str(store)},
        check=True, capture_output=True,
    )  # fmt: skip


def publish_a_broken_bank(store: Path) -> None:
    """Publish a bank, and change it afterwards."""
    content = b"nothing good"
    repository = Store.from_url(str(store), store.parent / "cache").repository("banks", "broken")
    version = repository.publish({"snippets.safetensors": content}, metadata={}, message="")
    digest = hashlib.sha256(content).hexdigest()
    (blob,) = (store / "banks" / "broken").rglob(digest)
    blob.write_bytes(b"nothing bad!")
    repository.set_alias("production", version, reason="a test")


def test_prometheus_reads_every_service_and_every_rule_is_well(watched) -> None:
    seen = watched.prometheus.now("max_over_time(up[5m]) == 1")  # the run may have ended by now
    jobs = {"generator", "bank", "triton", "trainer", "prometheus"}
    assert {sample["metric"]["job"] for sample in seen} == jobs
    groups = watched.prometheus.get("rules").json()["data"]["groups"]
    found = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert found == dict.fromkeys([*rules("record"), *rules("alert")], "ok")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.place)
def test_every_panel_has_something_to_draw(watched, panel) -> None:
    """Not only as a whole: ``or vector(0)`` must not hide that there is nothing to count."""
    expression = for_prometheus(panel.text, window=WINDOW)
    if names(expression) <= ONLY_AFTER_A_FAILURE:
        watched.prometheus.now(expression)
        return
    assert watched.prometheus.lately(expression)
    assert [n for n in names(expression) if not watched.prometheus.lately(n)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.place)
def test_every_rule_looks_at_something(watched, rule) -> None:
    """An alert may well select nothing now; what it selects from must be there."""
    watched.prometheus.now(rule.text)
    for name in names(rule.text) - ONLY_AFTER_A_FAILURE:
        assert watched.prometheus.lately(name), name


@pytest.mark.parametrize("record", rules("record"))
def test_what_is_recorded_is_there(watched, record) -> None:
    assert watched.prometheus.lately(record)


def test_a_version_that_is_refused_raises_its_alert(watched) -> None:
    raised = watched.prometheus.lately('ALERTS{alertname="GmemBankSwapFailing"}')
    bank = watched.prometheus.now("gmem_bank_swap_failures_total")
    assert {sample["metric"]["bank"] for sample in bank} == {"broken"}
    assert raised or float(bank[0]["value"][1]) == 1  # the second refusal comes after half a minute


@pytest.mark.parametrize("spec", OURS, ids=lambda spec: spec.name)
def test_every_metric_is_really_there(watched, spec) -> None:
    if spec.name not in ONLY_AFTER_A_FAILURE:
        assert all(watched.prometheus.lately(name) for name in spec.series)


@pytest.mark.parametrize("part", ["http", "bank_http"])
def test_promtool_finds_nothing_to_improve_in_what_is_served(watched, part) -> None:
    text = httpx.get(f"http://127.0.0.1:{watched.stack.ports[part]}/metrics", timeout=10).content
    ours = b"\n".join(
        line for line in text.splitlines() if b"python_" not in line and b"process_" not in line
    )
    done = subprocess.run(["promtool", "check", "metrics"], input=ours + b"\n", capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_triton_whose_engine_died_raises_its_alert(watched) -> None:
    """The last test of this module: it breaks what the others look at."""
    rule = rules("alert")["GmemEngineGone"]["expr"]
    assert watched.prometheus.now(rule) == []
    assert watched.prometheus.now("gmem_engine_seen_timestamp_seconds")
    (stub,) = psutil.Process(watched.stack.processes["triton"].pid).children()
    for process in (*stub.children(recursive=True), stub):
        process.kill()
    wait_for(lambda: len(watched.prometheus.now(rule)) == 1, "GmemEngineGone")
