import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MOST = 1.3
"""Peak memory in units of the weights, beyond that of the interpreter and its modules."""


@pytest.fixture
def folder(tmp_path):
    # pytest keeps its own folders; these hold gigabytes.
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        yield Path(folder)


def run(task: str, name: str, folder: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.support.published_size", task, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SiT-XL/2", "LightningDiT-XL/1"])
def test_largest_published_networks_fit_into_little_more_than_their_weights(name, folder) -> None:
    for task in ("publish", "serve"):
        found = run(task, name, folder)
        assert found["weights"] > 2.6e9
        assert found["peak"] <= MOST * found["weights"], task
