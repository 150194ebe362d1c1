"""Several real processes train what one does, and go on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support import training_processes
from tests.support.stack import free_port

STEPS = training_processes.RECIPE.steps
PROGRAM = ["-m", training_processes.__name__]
ROOT = Path(__file__).parents[3]


def command(folder: Path, processes: int, *options: str) -> list[str]:
    launcher = [] if processes == 1 else [
        "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
        "--master-port", str(free_port()),
    ]  # fmt: skip
    return [sys.executable, *launcher, *PROGRAM, str(folder), *options]


def run(folder: Path, processes: int, *options: str) -> subprocess.CompletedProcess[bytes]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        command(folder, processes, *options),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )


def finish(folder: Path, processes: int, *options: str) -> None:
    finished = run(folder, processes, *options)
    assert finished.returncode == 0, finished.stderr.decode()[-3000:]


def curve(folder: Path) -> dict[int, dict[str, float]]:
    """Return what each step reported; of a step that was taken twice, the second time."""
    lines = map(json.loads, (folder / "losses.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


def assert_close(found: Path, expected: Path) -> None:
    ours, theirs = curve(found), curve(expected)
    assert list(ours) == list(theirs) == list(range(1, STEPS + 1))
    for step, line in theirs.items():
        assert ours[step] == pytest.approx(line, rel=1e-4, abs=1e-5)
    weights, others = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    for name, tensor in others.items():
        assert (weights[name] - tensor).abs().max().item() < 2e-5, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(folder, 1)
    return folder


@pytest.mark.slow
def test_two_processes_train_what_one_does(alone, tmp_path) -> None:
    finish(tmp_path / "two", 2)
    assert_close(tmp_path / "two", alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [((1,), (1,)), ((2, "--sharded"), (2, "--sharded")), ((2,), (1,))],
    ids=["one", "two-sharded", "two-then-one"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(alone, tmp_path, before, after) -> None:
    folder = tmp_path / "killed"
    assert run(folder, *before, "--die-at", "7").returncode != 0
    assert list(curve(folder)) == list(range(1, 8))
    assert not (folder / "weights.safetensors").exists()
    finish(folder, *after)
    assert_close(folder, alone)
    if before == after == (1,):
        assert curve(folder) == curve(alone)
        weights = "weights.safetensors"
        assert (folder / weights).read_bytes() == (alone / weights).read_bytes()
