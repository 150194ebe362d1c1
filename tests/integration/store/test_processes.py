"""Publishers that share only a folder: racing processes, and processes that die."""

from __future__ import annotations

import subprocess
import sys
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


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_at_any_disk_operation_leaves_a_valid_store(
    tmp_path: Path, when: str
) -> None:
    subprocess.run([*PROGRAM, "die", str(tmp_path), when], check=True, timeout=240)
    steps = list(tmp_path.glob("models/killed-*"))
    assert len(steps) > 10
    store = Store.from_url(str(tmp_path), tmp_path)
    for folder in steps:
        repository = store.repository("models", folder.name)
        for version in repository.versions():
            assert contents(repository, version) == FILES
        retried = repository.publish(FILES, publish_id="job")
        assert repository.versions() == [retried]
        assert contents(repository, retried) == FILES
