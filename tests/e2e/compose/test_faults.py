"""What breaks in production, broken here under load: nothing is lost, and it comes back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gmem_shared.errors import GmemError
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Store
from tests.e2e.compose.delay import delayed
from tests.e2e.compose.engine import Project, run
from tests.e2e.compose.faults import under_load
from tests.support.stack import free_ports, wait_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

Verdicts = list[tuple[str, ...]]


@pytest.fixture
def stack(running: Project) -> Iterator[Project]:
    """The running project; every service is back before the next test."""
    running.up()
    yield running
    for service in ("object-store", "redis", "bank", "triton", "generator"):
        running.wait_healthy(service)


@pytest.fixture
def store(stack: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The stack's store, as an operator's machine sees it."""
    credentials = tmp_path / "credentials"
    credentials.write_text(stack.execute("bank", "cat", "/run/credentials/aws"))
    address = stack.address(stack.container("object-store"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:8333")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", address)
    return Store.from_settings(
        StoreSettings(
            url="s3://gmem/store", credentials_file=credentials, cache_dir=tmp_path / "cache"
        )
    )


def url(project: Project) -> str:
    return project.published("generator")[0]


def lost(store: Store) -> int:
    """Versions of which a byte is not as published."""
    broken = 0
    for kind in ("banks", "models"):
        repository = store.repository(kind, "digits")
        for version in repository.versions():
            try:
                repository.verify(version)
            except GmemError:
                broken += 1
    return broken


@pytest.mark.parametrize("service", ["bank", "triton", "redis", "object-store"])
def test_a_service_that_is_killed_comes_back(
    stack: Project, store: Store, verdicts: Verdicts, service: str
) -> None:
    with under_load(url(stack), f"{service} killed") as found:
        stack.crash(service)
        stack.wait_healthy(service)
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert lost(store) == 0
    assert 0 not in verdict.statuses
    if service in ("redis", "object-store"):
        assert verdict.failed == 0


def test_a_front_end_that_is_killed_comes_back(
    stack: Project, store: Store, verdicts: Verdicts
) -> None:
    with under_load(url(stack), "generator killed") as found:
        stack.crash("generator")
        stack.wait_healthy("generator")
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert set(verdict.statuses) <= {0, 200, 503}


def test_redis_may_be_away_for_20_seconds(stack: Project, store: Store, verdicts: Verdicts) -> None:
    with under_load(url(stack), "Redis paused for 20 s") as found, stack.paused("redis"):
        time.sleep(20)
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert verdict.failed == 0


def test_a_bank_cut_off_from_its_store_serves_what_it_has(
    stack: Project, store: Store, verdicts: Verdicts
) -> None:
    with (
        under_load(url(stack), "bank cut off from the store for 20 s") as found,
        stack.cut("bank", "object-store"),
    ):
        time.sleep(20)
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert verdict.failed == 0


def test_a_front_end_cut_off_from_triton_says_so_and_does_not_hang(
    stack: Project, store: Store, verdicts: Verdicts
) -> None:
    with (
        under_load(url(stack), "front end cut off from Triton for 20 s") as found,
        stack.cut("generator", "triton"),
    ):
        time.sleep(20)
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert 0 not in verdict.statuses
    assert verdict.slowest_seconds < 12


@pytest.mark.parametrize("other", ["bank", "triton"])
def test_30_ms_more_on_the_way_are_30_ms_more(
    stack: Project, store: Store, verdicts: Verdicts, other: str
) -> None:
    with (
        delayed(stack, "generator", other, milliseconds=30),
        under_load(url(stack), f"+30 ms between front end and {other}") as found,
    ):
        time.sleep(10)
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert verdict.failed == 0


def test_a_full_disk_of_the_store_stops_publishing_and_nothing_else(
    stack: Project, store: Store, verdicts: Verdicts
) -> None:
    with under_load(url(stack), "disk of the store full") as found:
        on_disk(stack, "dd if=/dev/zero of=/data/filler bs=1M 2>/dev/null || true")
        published = train(stack, seed=3, check=False)
        on_disk(stack, "rm /data/filler")
        stack.wait_healthy("object-store")
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert verdict.failed == 0
    assert "published" not in published
    train(stack, seed=3)


def test_two_trainers_that_publish_at_once_both_get_a_version(
    stack: Project, store: Store, verdicts: Verdicts
) -> None:
    before = len(store.repository("models", "digits").versions())
    with under_load(url(stack), "two trainers publish at once", seconds=300) as found:
        both = [trainer(stack, seed) for seed in (1, 2)]
        for one in both:
            assert one.wait(600) == 0
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert verdict.failed == 0
    assert len(store.repository("models", "digits").versions()) == before + 2


def test_a_corrupted_upload_is_never_served(
    stack: Project, store: Store, verdicts: Verdicts
) -> None:
    repository = store.repository("banks", "digits")
    good = repository.resolve("production")
    bad = repository.publish(
        {"classes.json": b"[]"},
        metadata=good.manifest.metadata,
        reuse={n: f for n, f in good.manifest.files.items() if n != "classes.json"},
    )
    with under_load(url(stack), "a corrupted version is promoted") as found:
        repository.set_alias("production", bad, reason="test")
        wait_for(lambda: refused(stack), "the bank refuses it", 30)
        answer = httpx.post(f"{url(stack)}/generate", json={"class_label": 1}, timeout=30).json()
        assert answer["bank"]["digest"] == good.digest
        repository.rollback("production", reason="test")
    (verdict,) = found
    verdicts.append(verdict.line(lost(store)))
    assert verdict.failed == 0


def test_behind_a_load_balancer_a_front_end_leaves_without_a_failed_request(
    stack: Project, store: Store, verdicts: Verdicts, tmp_path: Path
) -> None:
    stack.compose("up", "-d", "--no-recreate", "--scale", "generator=2", "generator")
    stack.wait_healthy("generator")
    try:
        with (
            balancer(stack.published("generator"), tmp_path) as address,
            under_load(address, "SIGTERM to one of two front ends behind a load balancer") as found,
        ):
            leaving = stack.containers("generator")[0]
            run("docker", "stop", "-t", "40", leaving)
        (verdict,) = found
        verdicts.append(verdict.line(lost(store)))
        assert verdict.failed == 0
        assert stack.inspect(leaving)["State"]["ExitCode"] == 0
    finally:
        stack.compose("up", "-d", "--scale", "generator=1", "generator")


def on_disk(project: Project, script: str) -> None:
    """Run a script where the store keeps its data, whether or not the store runs."""
    volume = f"{project.name}_object-store:/data"
    image = project.inspect(project.container("object-store"))["Config"]["Image"]
    run("docker", "run", "--rm", "-v", volume, "--entrypoint", "sh", image, "-c", script)


def train(project: Project, seed: int, *, check: bool = True) -> str:
    return project.compose("run", "--rm", "-T", "trainer", training(seed), check=check)


def trainer(project: Project, seed: int) -> subprocess.Popen[bytes]:
    return project.start("run", "--rm", "-T", "trainer", training(seed))


def training(seed: int) -> str:
    options = f"--steps 60 --min-accuracy 0 --seed {seed} --workdir /tmp/train"
    return f"exec gmem train --preset digits {options}"


def refused(project: Project) -> bool:
    return 'gmem_bank_swap_failures_total{bank="digits"} 1' in project.metrics("bank", 8100)


class balancer:  # noqa: N801 (reads as a context)
    """HAProxy in front of some servers: asks ``/readyz``, sends a refused request elsewhere."""

    def __init__(self, servers: list[str], folder: Path) -> None:
        (self._port,) = free_ports(1)
        lines = [
            f"  server s{i} {server.removeprefix('http://')} check inter 200ms fall 1 rise 1"
            for i, server in enumerate(servers)
        ]
        self._file = folder / "haproxy.cfg"
        self._file.write_text(CONFIGURATION.format(port=self._port, servers="\n".join(lines)))

    def __enter__(self) -> str:
        self._process = subprocess.Popen(["haproxy", "-f", str(self._file)])
        address = f"http://127.0.0.1:{self._port}"
        wait_for(
            lambda: httpx.get(f"{address}/readyz", timeout=5).status_code == 200, "it balances"
        )
        return address

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


CONFIGURATION = """
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option httpchk GET /readyz
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response
listen front
  bind 127.0.0.1:{port}
{servers}
"""
