"""The commands of the README, as a user types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.stack import Stack, wait_for

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(sys.prefix)

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / ".dev").exists(), reason="not in the environment of `make setup`"
)


def members(session: int) -> list[str]:
    """Command lines of everything that was started from one terminal and still runs."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or []))
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize(
    "target", ["run", pytest.param("run-distributed", marks=pytest.mark.triton)]
)
def test_it_serves_until_ctrl_c_and_leaves_nothing_behind(target, digits_store, tmp_path) -> None:
    stack = Stack(str(digits_store), tmp_path, embedded=target == "run")
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["make", target, f"PORT={stack.ports['http']}", f"VENV={ENVIRONMENT}"],
            cwd=ROOT,
            env=stack.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(stack.is_ready, f"{stack.url}/readyz is 200", 90)
        assert len(stack.generate(class_label="three", num_images=2)["images"]) == 2
        assert httpx.get(stack.url, timeout=10).status_code == 200
        wait_for(lambda: f"Serving on {stack.url}" in output.read_text(), "the address", 10)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        wait_for(lambda: members(process.pid) == [], "no process left", 10)
    finally:
        for part in members(process.pid):
            print(f"left behind: {part}")  # noqa: T201 (shown when the test fails)
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in output.read_text()
