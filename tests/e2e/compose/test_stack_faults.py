"""What breaks in production, broken here under load: nothing is lost, and it comes back."""

from __future__ import annotations

import configparser
import hashlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import httpx
import obstore
import pytest
from obstore.exceptions import BaseError

from gmem_shared.errors import GmemError
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Store
from gmem_shared.store.backends import connect
from gmem_shared.store.layout import Layout
from tests.e2e.compose.delay import delayed
from tests.e2e.compose.engine import Project, run
from tests.e2e.compose.faults import Verdict, under_load
from tests.support.stack import free_ports, wait_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

BALANCED = "SIGTERM to one of two front ends behind a load balancer"


@pytest.fixture
def stack(running: Project) -> Iterator[Project]:
    """The running project with a job that was acknowledged before the fault, and ends after it."""
    running.up()
    request = {"num_images": 300, "num_steps": 8, "seed": 1}
    job = httpx.post(
        f"{url(running)}/generate", json=request, headers={"Prefer": "respond-async"}, timeout=30
    )
    assert job.status_code == 202, job.text
    yield running
    for service in ("object-store", "redis", "bank", "triton", "generator"):
        running.wait_healthy(service)
    wait_for(lambda: succeeded(f"{url(running)}{job.headers['Location']}"), "the job ends", 180)


@pytest.fixture
def place(stack: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSettings:
    """Where an operator's machine finds the stack's store."""
    credentials = tmp_path / "credentials"
    credentials.write_text(stack.execute("bank", "cat", "/run/credentials/aws"))
    address = stack.address(stack.container("object-store"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:8333")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", address)
    return StoreSettings(
        url="s3://gmem/store", credentials_file=credentials, cache_dir=tmp_path / "cache"
    )


@pytest.fixture
def store(place: StoreSettings) -> Store:
    return Store.from_settings(place)


def url(project: Project) -> str:
    return project.published("generator")[0]


def succeeded(job: str) -> bool:
    found = httpx.get(job, timeout=30).json()
    assert found["status"] not in ("failed", "cancelled"), found
    return bool(found["status"] == "succeeded")


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


class Judge(Protocol):
    """Runs a block as a fault under load; the list holds the verdict afterwards."""

    def __call__(
        self, fault: str, *, address: str | None = None, seconds: float = 120.0
    ) -> AbstractContextManager[list[Verdict]]: ...


@pytest.fixture
def judged(stack: Project, store: Store, verdicts: list[tuple[str, ...]]) -> Judge:
    @contextmanager
    def judge(
        fault: str, *, address: str | None = None, seconds: float = 120.0
    ) -> Iterator[list[Verdict]]:
        with under_load(address or url(stack), fault, seconds) as found:
            yield found
        damaged = lost(store)
        verdicts.append(found[0].line(damaged))
        assert damaged == 0

    return judge


@pytest.mark.parametrize("service", ["bank", "triton", "redis", "object-store"])
def test_a_service_that_is_killed_comes_back(stack: Project, judged: Judge, service: str) -> None:
    with judged(f"{service} killed") as found:
        stack.crash(service)
        stack.wait_healthy(service)
    (verdict,) = found
    assert 0 not in verdict.statuses
    if service in ("redis", "object-store"):
        assert verdict.failed == 0


def test_a_front_end_that_is_killed_comes_back(stack: Project, judged: Judge) -> None:
    with judged("generator killed") as found:
        stack.crash("generator")
        stack.wait_healthy("generator")
    (verdict,) = found
    assert set(verdict.statuses) <= {0, 200, 503}


def test_redis_may_be_away_for_20_seconds(stack: Project, judged: Judge) -> None:
    with judged("Redis paused for 20 s") as found, stack.paused("redis"):
        time.sleep(20)
    (verdict,) = found
    assert verdict.failed == 0


def test_a_bank_cut_off_from_its_store_serves_what_it_has(stack: Project, judged: Judge) -> None:
    with (
        judged("bank cut off from the store for 20 s") as found,
        stack.cut("bank", "object-store"),
    ):
        time.sleep(20)
    (verdict,) = found
    assert verdict.failed == 0


def test_a_front_end_cut_off_from_triton_says_so_and_does_not_hang(
    stack: Project, judged: Judge
) -> None:
    with (
        judged("front end cut off from Triton for 20 s") as found,
        stack.cut("generator", "triton"),
    ):
        time.sleep(20)
    (verdict,) = found
    assert 0 not in verdict.statuses
    assert verdict.slowest_seconds < 12


@pytest.mark.parametrize("other", ["bank", "triton"])
def test_30_ms_more_on_the_way_are_30_ms_more(stack: Project, judged: Judge, other: str) -> None:
    with (
        delayed(stack, "generator", other, milliseconds=30),
        judged(f"+30 ms between front end and {other}") as found,
    ):
        time.sleep(10)
    (verdict,) = found
    assert verdict.failed == 0


def test_a_full_disk_of_the_store_stops_publishing_and_nothing_else(
    stack: Project, place: StoreSettings, judged: Judge
) -> None:
    with judged("disk of the store full") as found:
        on_disk(stack, "dd if=/dev/zero of=/data/filler bs=1M 2>/dev/null || true")
        with filled(place):
            published = train(stack, seed=3, check=False)
            on_disk(stack, "rm /data/filler")
            stack.wait_healthy("object-store")
    (verdict,) = found
    assert verdict.failed == 0
    assert "published" not in published
    train(stack, seed=3)


def test_two_trainers_that_publish_at_once_both_get_a_version(
    stack: Project, store: Store, judged: Judge
) -> None:
    before = len(store.repository("models", "digits").versions())
    with judged("two trainers publish at once", seconds=300) as found:
        both = [trainer(stack, seed) for seed in (1, 2)]
        for one in both:
            assert one.wait(600) == 0
    (verdict,) = found
    assert verdict.failed == 0
    assert len(store.repository("models", "digits").versions()) == before + 2


def test_a_corrupted_upload_is_never_served(
    stack: Project, place: StoreSettings, store: Store, judged: Judge
) -> None:
    repository = store.repository("banks", "digits")
    good = repository.resolve("production")
    content = b"as it was sent"
    bad = repository.publish(
        {"notes.txt": content}, metadata=good.manifest.metadata, reuse=good.manifest.files
    )
    objects = connect(place.url, place.credentials_file)
    blob = Layout("banks", "digits").blob(hashlib.sha256(content).hexdigest())
    objects.write(blob, b"as it was kept")
    with judged("a corrupted upload is promoted") as found:
        repository.set_alias("production", bad, reason="test")
        wait_for(lambda: refused(stack), "the bank refuses it", 30)
        answer = httpx.post(f"{url(stack)}/generate", json={"class_label": 1}, timeout=30).json()
        assert answer["bank"]["digest"] == good.digest
        repository.rollback("production", reason="test")
        objects.write(blob, content)
    (verdict,) = found
    assert verdict.failed == 0


def test_behind_a_load_balancer_a_front_end_leaves_without_a_failed_request(
    stack: Project, judged: Judge, tmp_path: Path
) -> None:
    stack.compose("up", "-d", "--no-recreate", "--scale", "generator=2", "generator")
    stack.wait_healthy("generator")
    try:
        with (
            balancer(stack.published("generator"), tmp_path) as address,
            judged(BALANCED, address=address) as found,
        ):
            leaving = stack.containers("generator")[0]
            run("docker", "stop", "-t", "40", leaving)
        (verdict,) = found
        assert verdict.failed == 0
        assert stack.inspect(leaving)["State"]["ExitCode"] == 0
    finally:
        stack.compose("up", "-d", "--scale", "generator=1", "generator")


def on_disk(project: Project, script: str) -> None:
    """Run a script where the store keeps its data, whether or not the store runs."""
    volume = f"{project.name}_object-store:/data"
    image = project.inspect(project.container("object-store"))["Config"]["Image"]
    run("docker", "run", "--rm", "-v", volume, "--entrypoint", "sh", image, "-c", script)


@contextmanager
def filled(place: StoreSettings) -> Iterator[None]:
    """Write until nothing more is taken: a server may have had room of its own on a full disk."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(Path(str(place.credentials_file)).read_text())
    bucket = obstore.store.from_url(
        "s3://gmem/filler",
        access_key_id=parser["default"]["aws_access_key_id"],
        secret_access_key=parser["default"]["aws_secret_access_key"],
        client_options={"allow_http": True, "timeout": timedelta(seconds=5)},
        retry_config={"max_retries": 0},
    )
    with pytest.raises(BaseError):
        write(bucket, 2048)
    yield
    obstore.delete(bucket, [entry["path"] for page in obstore.list(bucket) for entry in page])


def write(bucket: obstore.store.S3Store, mebibytes: int) -> None:
    for number in range(mebibytes):
        obstore.put(bucket, str(number), bytes(1 << 20))


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
