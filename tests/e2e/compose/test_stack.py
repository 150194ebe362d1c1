"""``docker compose up`` on an empty machine, and what an operator sees of it."""

from __future__ import annotations

import io
import time
import zipfile

import httpx
import pytest

from tests.e2e.compose.engine import Project
from tests.support.observability import panel_expressions, rules
from tests.support.promql import names
from tests.support.stack import wait_for

ONLY_AFTER_A_FAILURE = "gmem_engine_swap_failures_total"
"""Has no series while all is well."""

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def test_everything_is_healthy_within_90_seconds(running: Project) -> None:
    seconds = running.up()
    print(f"\nup, healthy, digits trained and published: {seconds:.0f} s")
    assert seconds <= 90


@pytest.mark.parametrize("label", range(10))
def test_images_of_every_class_come_through_bank_triton_and_store(
    running: Project, label: int
) -> None:
    answer = httpx.post(
        f"{running.published('generator')[0]}/generate",
        json={"class_label": label, "num_images": 4, "seed": label},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {image["class_label"] for image in body["images"]} == {label}
    assert body["bank"]["name"] == body["model"]["name"] == "digits"


def test_the_way_led_through_the_bank_service_and_triton(running: Project) -> None:
    bank, triton = running.metrics("bank", 8100), running.metrics("triton", 8202)
    assert 'gmem_bank_requests_total{code="ok",method="draw"}' in bank
    assert "nv_inference_exec_count" in triton
    assert "gmem_engine_evaluation_rows" in triton


def test_a_job_of_1000_images_is_finished_through_redis(running: Project) -> None:
    (address,) = running.published("generator")
    request = {"class_label": 3, "num_images": 1000, "seed": 5}
    with httpx.Client(base_url=address, timeout=60) as client:
        job = client.post("/generate", json=request, headers={"Prefer": "respond-async"})
        assert job.status_code == 202, job.text
        path = job.headers["Location"]
        wait_for(lambda: client.get(path).json()["status"] != "running", "the job ends", 300)
        wait_for(lambda: client.get(path).json()["status"] == "succeeded", "it succeeds", 30)
        archive = zipfile.ZipFile(io.BytesIO(client.get(f"{path}/result").content))
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(pictures) == 1000
        replayed = client.post(
            "/generate", json={"class_label": 3, "seed": 5}, headers={"Accept": "image/png"}
        )
    assert archive.read(pictures[0]) == replayed.content
    keys = running.execute(
        "redis", "sh", "-c", "REDISCLI_AUTH=$(cat /run/credentials/redis-password) redis-cli dbsize"
    )
    assert int(keys) > 0


def test_prometheus_has_every_series_that_dashboards_use(running: Project) -> None:
    (address,) = running.published("prometheus")
    late = {"num_images": 64, "num_steps": 500, "deadline_ms": 400}
    assert httpx.post(f"{running.published('generator')[0]}/generate", json=late).status_code == 504
    used = {name for expression in panel_expressions() for name in names(expression.text)}
    used -= {*rules("record"), ONLY_AFTER_A_FAILURE}
    end = time.monotonic() + 60
    while missing := used - known(address):
        assert time.monotonic() < end, sorted(missing)
        time.sleep(1)
    alerts = httpx.get(f"{address}/api/v1/rules", timeout=10).json()["data"]["groups"]
    assert {rule["health"] for group in alerts for rule in group["rules"]} == {"ok"}


def known(prometheus: str) -> set[str]:
    """Every series there is, and those of metrics that a target shows without a sample yet."""
    with httpx.Client(base_url=f"{prometheus}/api/v1", timeout=10) as client:
        shown = client.get("/metadata").json()["data"]
        series = client.get("/label/__name__/values").json()["data"]
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    return {name + suffix for name in shown for suffix in suffixes} | set(series)


def test_only_front_end_and_monitoring_listen_on_this_machine_and_on_loopback(
    running: Project,
) -> None:
    published = {
        (service, binding["HostIp"])
        for service in ("bank", "triton", "redis", "object-store", *running.services)
        for container in running.containers(service)
        for bindings in running.inspect(container)["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert published == {(service, "127.0.0.1") for service in running.services}


@pytest.mark.parametrize("service", ["bank", "triton", "generator"])
def test_our_containers_cannot_write_their_image_nor_gain_rights(
    running: Project, service: str
) -> None:
    found = running.inspect(running.container(service))
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["Config"]["User"] == "10001:10001"
    assert running.execute(service, "sh", "-c", "touch /opt/x 2>&1 || true").strip()


def test_no_password_stands_in_an_environment_or_a_log(running: Project) -> None:
    secrets = running.execute(
        "bank",
        "sh",
        "-c",
        "cat /run/credentials/redis-password; echo; sed -n s/.*_key.=.//p /run/credentials/aws",
    ).split()
    secrets = [secret for secret in secrets if len(secret) > 20]
    assert len(secrets) == 2
    everything = run_inspect(running) + running.compose("logs", "--no-color")
    assert not [secret for secret in secrets if secret in everything]


def test_a_second_up_changes_nothing(running: Project) -> None:
    before = running.containers("generator")
    running.up()
    assert running.containers("generator") == before


def run_inspect(project: Project) -> str:
    services = ("object-store", "redis", "trainer", "bank", "triton", "generator")
    return "".join(str(project.inspect(c)) for s in services for c in project.containers(s))
