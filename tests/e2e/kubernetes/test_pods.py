"""The pods of the development overlay really start, with the images that compose runs.

Nothing is applied to a cluster: that objects refer to each other rightly is checked in
``tests/integration/kubernetes``; here, that a pod works with what its spec gives and forbids it.
"""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.kubernetes.conftest import OURS
from tests.e2e.kubernetes.podman import Podman
from tests.support.kubernetes.manifests import Pod
from tests.support.stack import wait_for

pytestmark = [pytest.mark.podman, pytest.mark.kubectl, pytest.mark.timeout(1800)]


def test_images_of_every_class_come_through_the_pods(running: Podman, pods: dict[str, Pod]) -> None:
    address = f"http://{running.address(pods['generator'])}:8000"
    for label in range(10):
        answer = httpx.post(
            f"{address}/generate", json={"class_label": label, "num_images": 2}, timeout=30
        )
        assert answer.status_code == 200, answer.text
        assert {image["class_label"] for image in answer.json()["images"]} == {label}


def test_a_job_is_finished_through_the_redis_pod(running: Podman, pods: dict[str, Pod]) -> None:
    address = f"http://{running.address(pods['generator'])}:8000"
    with httpx.Client(base_url=address, timeout=30) as client:
        job = client.post(
            "/generate", json={"num_images": 100}, headers={"Prefer": "respond-async"}
        )
        assert job.status_code == 202, job.text
        path = job.headers["Location"]
        wait_for(lambda: client.get(path).json()["status"] == "succeeded", "the job succeeds", 120)
    assert int(running.execute(pods["redis"], "redis-cli", "dbsize")) > 0


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_a_pod_may_no_more_than_its_spec_says(
    running: Podman, pods: dict[str, Pod], name: str
) -> None:
    inspected = running.inspect(running.container(pods[name]))
    assert inspected["HostConfig"]["ReadonlyRootfs"]
    assert inspected["EffectiveCaps"] in (None, [])
    assert running.execute(pods[name], "id", "-u").strip() == "10001"
    with pytest.raises(AssertionError, match="Read-only file system"):
        running.execute(pods[name], "touch", "/written")


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_every_probe_of_a_pod_succeeds(running: Podman, pods: dict[str, Pod], name: str) -> None:
    kinds = [kind for kind in pods[name].main if kind.endswith("Probe")]
    assert {"livenessProbe", "readinessProbe"} <= set(kinds)
    running.wait_ready(pods[name], seconds=30)


@pytest.mark.parametrize("name", OURS)
def test_a_pod_that_is_told_to_stop_ends_within_its_grace(
    running: Podman, pods: dict[str, Pod], name: str
) -> None:
    running.command("stop", "-t", str(grace(pods[name])), running.container(pods[name]))
    state = running.inspect(running.container(pods[name]))["State"]
    assert state["ExitCode"] == 0, running.logs(pods[name])
    running.command("start", running.container(pods[name]))
    running.wait_ready(pods[name])


def grace(pod: Pod) -> int:
    """Seconds between SIGTERM and SIGKILL: what ``preStop`` leaves of the grace period."""
    sleep = pod.main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return int(pod.spec["terminationGracePeriodSeconds"]) - int(sleep)
