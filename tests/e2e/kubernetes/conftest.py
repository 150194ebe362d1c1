"""The pods of the development overlay, started once, in the order of who needs whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.compose.engine import HERE, Project, compose_files, run
from tests.e2e.kubernetes.podman import Podman
from tests.support.kubernetes.manifests import Manifests, Pod, render

OURS = ("bank", "triton", "generator")
STORE = "gmem-test/rados-gateway"


@pytest.fixture(scope="session")
def manifests() -> Manifests:
    return render("overlays/dev")


@pytest.fixture(scope="session")
def pods(manifests: Manifests) -> dict[str, Pod]:
    return {pod.name: pod for pod in manifests.pods}


@pytest.fixture(scope="session")
def running(
    manifests: Manifests, pods: dict[str, Pod], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Podman]:
    """Redis, a store, one training, then everything that serves."""
    Project("gmem-images", compose_files(), (), {"STORE_DISK": "/dev/null"}).build()
    run(
        "docker",
        "build",
        "-q",
        "-t",
        STORE,
        "-f",
        str(HERE / "rados-gateway.Dockerfile"),
        str(HERE),
    )
    podman = Podman(manifests, tmp_path_factory.mktemp("pods"))
    started = [pods[name] for name in ("redis", "trainer", *OURS)]
    podman.load(STORE, *{container["image"] for pod in started for container in pod.containers})
    podman.remove_all()
    try:
        podman.command("network", "create", podman.network)
        podman.start(pods["redis"])
        _start_store(podman, pods["trainer"])
        podman.wait_ready(pods["redis"])
        podman.start(pods["trainer"])
        podman.wait_ended(pods["trainer"])
        for name in OURS:
            podman.start(pods[name])
        for name in OURS:
            podman.wait_ready(pods[name])
        yield podman
    finally:
        podman.remove_all()


def _start_store(podman: Podman, client: Pod) -> None:
    """Ceph's gateway in the place of SeaweedFS, with the credentials that its clients are given."""
    given, _ = podman.manifests.environment(client.main)
    key, secret = given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"]
    file = podman.folder / "aws"
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    podman.command(
        *("run", "-d", "--name", "object-store", "-v", f"{file}:/run/credentials/aws:ro"),
        *("--network", f"{podman.network}:alias=object-store", f"localhost/{STORE}"),
    )
    podman.command(
        *("exec", "object-store", "curl", "-fsS", "--retry", "40", "--retry-all-errors"),
        *("--retry-delay", "1", "-X", "PUT", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"),
        *("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{key}:{secret}"),
        "http://127.0.0.1:8333/gmem",
    )
