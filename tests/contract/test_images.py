"""Each image holds what its commands import: also the one that can only be built for a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.install import dependencies

ROOT = Path(__file__).parents[2]
GENERATOR = "services/generator/"

TRITON = ("gmem_generator.triton_cli", "gmem_model.engine.opening", "gmem_generator.triton_server")
RUNS = {
    ("services/bank/Dockerfile", "bank,tracing"): ("gmem_bank.cli", "gmem_bank.server"),
    (f"{GENERATOR}Dockerfile", "frontend,tracing"): (
        "gmem_generator.cli",
        "gmem_generator.app",
        "gmem_generator.triton_replicas",
        "gmem_shared.clients.bank",
    ),
    (f"{GENERATOR}triton.Dockerfile", "triton,tracing"): (*TRITON, "pytriton"),
    (f"{GENERATOR}triton.Dockerfile", "triton-nvidia,tracing"): TRITON,
    ("services/trainer/Dockerfile", "trainer"): ("gmem_trainer.cli", "gmem_shared.store.cli"),
}
"""Modules behind the commands of an image, by the extras that its Dockerfile installs."""


def test_these_are_the_extras_that_dockerfiles_install() -> None:
    installed = {
        (str(file.relative_to(ROOT)), extra)
        for file in ROOT.glob("services/*/*Dockerfile")
        for extra in re.findall(r"install\.py --dependencies (\S+)", file.read_text())
    }
    assert installed == set(RUNS)


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)

absent = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
for module in sys.argv[2].split(","):
    __import__(module)
"""
"""Imports modules as if packages were not installed."""


@pytest.mark.parametrize(("dockerfile", "extra"), RUNS)
def test_an_image_has_all_that_its_commands_import(dockerfile: str, extra: str) -> None:
    present = closure(dependencies(extra)) | {"gmem-serving"}
    absent = [
        package
        for package, owners in metadata.packages_distributions().items()
        if not present & set(map(canonicalize_name, owners))
    ]
    arguments = [",".join(absent), ",".join(RUNS[dockerfile, extra])]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def closure(requirements: list[str]) -> set[str]:
    """Names of the distributions that installing these requirements brings."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for text in metadata.requires(requirement.name) or []:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return {name for name, _ in found}
