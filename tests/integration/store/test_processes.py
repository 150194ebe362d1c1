"""Publishers that share only a folder: racing processes, and processes that die."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from gmem_shared.store import Store
from tests.support.store_processes import FILES
from tests.support.stores import contents

PROGRAM = (sys.executable, "-m", "tests.support.store_processes")


def test_racing_processes_all_publish(tmp_path: Path) -> None:
    publishers = [
        subprocess.Popen([*PROGRAM, "race", str(tmp_path), str(number), "4"]) for number in range(4)
    ]
    assert [publisher.wait(timeout=120) for publisher in publishers] == [0] * 4
    repository = Store.from_url(str(tmp_path), tmp_path).repository("models", "raced")
    versions = repository.versions()
    assert [version.seq for version in versions] == list(range(1, 17))
    assert {contents(repository, version)["data"] for version in versions} == {
        f"{publisher}.{number}".encode() for publisher in range(4) for number in range(4)
    }


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_at_any_disk_operation_leaves_a_valid_store(
    tmp_path: Path, when: str
) -> None:
    for step in count():
        name = f"killed-{step}"
        process = subprocess.run(
            [*PROGRAM, "die", str(tmp_path), name, str(step), when],
            capture_output=True,
            timeout=120,
        )
        repository = Store.from_url(str(tmp_path), tmp_path).repository("models", name)
        for version in repository.versions():
            assert contents(repository, version) == FILES
        retried = repository.publish(FILES, publish_id="job")
        assert repository.versions() == [retried]
        assert contents(repository, retried) == FILES
        if process.returncode == 0:
            break
        assert process.returncode == 9, process.stderr
    assert step > 10
