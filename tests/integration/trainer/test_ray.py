"""Ray prepares a data set as one process does, to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def prepare(folder: Path, engine: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.preparing", str(folder), engine],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.splitlines()[-1] == "42 of 42 images"


@pytest.mark.slow
def test_ray_makes_the_same_shards(tmp_path) -> None:
    pytest.importorskip("ray")
    for engine in ("local", "ray"):
        prepare(tmp_path / engine, engine)
    local, ray = (sorted((tmp_path / e).glob("*.safetensors")) for e in ("local", "ray"))
    assert [path.name for path in ray] == [path.name for path in local]
    assert len(local) == 5
    for ours, theirs in zip(local, ray, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
