"""``docker compose up`` on an empty machine, and what an operator sees of it."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.compose.engine import Project

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
    assert 'gmem_bank_requests_total{code="OK",method="Draw"}' in bank
    assert "nv_inference_exec_count" in triton
    assert "gmem_engine_evaluation_rows" in triton


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
        "cat /run/credentials/redis-password; sed -n s/.*_key.=.//p /run/credentials/aws",
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
