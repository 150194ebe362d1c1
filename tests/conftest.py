"""What all tests share: a missing real component skips a test, or fails it where CI says so."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.e2e.compose.engine import engine_runs

REQUIRED = set(filter(None, os.environ.get("GMEM_TEST_REQUIRE", "").split(",")))
"""Components whose absence is a failure: ``GMEM_TEST_REQUIRE=triton,browser,redis,s3``."""

COMPONENTS = {
    "triton": (
        lambda: importlib.util.find_spec("pytriton") is not None,
        "the tritonserver wheel (pip install 'gmem-serving[triton]')",
    ),
    "browser": (
        lambda: shutil.which("chromium") is not None,
        "chromium (apt-get install chromium)",
    ),
    "docker": (
        engine_runs,
        "a container engine and compose (apt-get install docker.io docker-compose; dockerd &)",
    ),
    "kubectl": (
        lambda: shutil.which("kubectl") is not None,
        "kubectl (https://kubernetes.io/docs/tasks/tools); no cluster",
    ),
    "podman": (
        lambda: engine_runs() and shutil.which("podman") is not None and os.geteuid() == 0,
        "podman, a container engine that builds, and root (apt-get install podman runc)",
    ),
    "redis": (
        lambda: shutil.which("redis-server") is not None,
        "redis-server (apt-get install redis-server)",
    ),
    "s3": (
        lambda: shutil.which("radosgw") is not None,
        "Ceph's S3 server (apt-get install ceph-mon ceph-osd radosgw ceph-common)",
    ),
    "prometheus": (
        lambda: shutil.which("prometheus") is not None and shutil.which("promtool") is not None,
        "Prometheus and promtool (apt-get install prometheus)",
    ),
}


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log events are kept from the terminal."""
    with capture_logs():
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes with one thread, as engines and jobs do."""
    import torch  # most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a running stack run in one process, those of a file in another."""
    for item in items:
        path = item.path.relative_to(item.config.rootpath)
        stack = path.parts[1] in ("contract", "e2e")
        item.add_marker(pytest.mark.xdist_group(path.parts[1] if stack else str(path)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (present, needed) in COMPONENTS.items():
        if item.get_closest_marker(marker) and not present():
            if marker in REQUIRED:
                pytest.fail(f"needs {needed}")
            pytest.skip(f"needs {needed}")
