"""``supervisord.conf``: bank service, Triton and front end as one console's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from gmem_shared.store import Store
from tests.support import banks
from tests.support.models import TEST_ENCODER, publish_tiny_model
from tests.support.stack import Stack, wait_for

pytestmark = pytest.mark.triton

CONFIGURATION = Path(__file__).parents[3] / "supervisord.conf"


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    url = str(tmp_path / "store")
    store = Store.from_url(url, cache_dir=tmp_path / "cache")
    publish_tiny_model(store)
    features = banks.features()
    vectors = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    banks.publish(
        store,
        "tiny",
        **features | {"vectors": vectors, "encoder": TEST_ENCODER, "classes": banks.CLASSES},
    )
    extra = {
        "GMEM_GENERATOR__DEFAULT_MODEL": "tiny",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return Stack(url, tmp_path, extra=extra)


@pytest.fixture
def supervisor(stack: Stack) -> Iterator[psutil.Popen]:
    (stack.directory / ".gmem").mkdir()
    with (stack.directory / "generator.log").open("ab") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIGURATION)],
            env=stack.environment,
            cwd=stack.directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        stack.wait_ready()
        yield process
    finally:
        if process.is_running():
            for one in [*process.children(recursive=True), process]:
                one.kill()
        process.wait()


def test_parts_start_come_back_and_end_together(stack, supervisor) -> None:
    wait_for(lambda: stack.url in stack.logs(), "the front end's address on the console")
    before = stack.generate(class_label=1, seed=2)

    (triton,) = [one for one in supervisor.children() if "tritonserver" in one.name()]
    triton.kill()
    wait_for(lambda: not stack.is_ready(), "/readyz says that Triton is gone")
    stack.wait_ready()
    assert stack.generate(class_label=1, seed=2)["images"] == before["images"]

    parts = supervisor.children(recursive=True)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(60) == 0
    assert not psutil.wait_procs(parts, timeout=0)[1]
