"""Install this checkout with one extra: ``python tools/install.py EXTRA [--dependencies]``.

``--dependencies`` installs only what the extra needs: an image's layer that the code leaves alone.

On Linux, PyPI's torch brings several GB of CUDA packages. On a machine without an NVIDIA GPU this
asks pip first what it would install, and takes torch from PyTorch's own CPU index if that would
include CUDA; ``TORCH_INDEX_URL`` names another index.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pip(*arguments: str) -> str:
    """Run pip quietly and return what it printed."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    return subprocess.run(
        [*command, *arguments], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def brings_cuda(requirement: str) -> bool:
    """Whether installing the requirement from the configured index would fetch CUDA packages."""
    report = json.loads(pip("install", "--quiet", "--dry-run", "--report", "-", requirement))
    names = {item["metadata"]["name"].lower() for item in report["install"]}
    return any(name.startswith(("nvidia-", "cuda-")) for name in names)


def install_torch() -> None:
    """Install the pinned torch, without CUDA where there is no NVIDIA GPU."""
    pins = CONSTRAINTS.read_text().splitlines()
    requirement = next(line for line in pins if line.startswith("torch=="))
    index = os.environ.get("TORCH_INDEX_URL")
    if index is None and shutil.which("nvidia-smi") is None and brings_cuda(requirement):
        index = CPU_INDEX
    source = ["--index-url", index] if index else []
    pip("install", "--quiet", *source, requirement)


def dependencies(extra: str) -> list[str]:
    """Return the requirements of the package and of one extra, with those of extras it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def expand(requirement: str) -> list[str]:
        ours = re.fullmatch(r"gmem-serving\[(.+)\]", requirement)
        if ours is None:
            return [requirement]
        return [r for name in ours[1].split(",") for listed in extras[name] for r in expand(listed)]

    return [*project["dependencies"], *expand(f"gmem-serving[{extra}]")]


def main() -> None:
    """Install torch if the extra needs it, then the extra, pinned by the constraints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra")
    parser.add_argument("--dependencies", action="store_true")
    arguments = parser.parse_args()
    extra = arguments.extra
    print(f"Installing gmem-serving[{extra}] (a few minutes the first time) …", flush=True)
    needed = dependencies(extra)
    if any(requirement.startswith("torch>") for requirement in needed):
        install_torch()
    wanted = needed if arguments.dependencies else ["-e", f"{ROOT}[{extra}]"]
    pip("install", "--quiet", "-c", str(CONSTRAINTS), *wanted)


if __name__ == "__main__":
    main()
