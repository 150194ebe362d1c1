"""Decisions of the architecture that tools do not hold by themselves."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "module", ["gmem_generator.app", "gmem_generator.triton_replicas", "gmem_shared.clients.bank"]
)
def test_the_front_end_runs_without_torch_and_faiss(module) -> None:
    code = (
        f"import sys, {module}; loaded = {{'torch', 'faiss', 'sklearn', 'gmem_model'}} "
        "& set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_bank_runs_without_torch() -> None:
    code = "import sys, gmem_bank.cli, gmem_bank.local; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_make_target_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {
        line.split("==")[0]
        for line in (ROOT / "requirements/constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        if extra != "gpu":  # chosen to fit the CUDA of the machine
            wanted += requirements
    names = {re.split(r"[\[<>=;~ ]", requirement)[0].lower() for requirement in wanted}
    assert names - {"gmem-serving"} <= pins
