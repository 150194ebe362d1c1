"""The commands of docs/train.md, as a user types them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from typer.main import get_command

from gmem_trainer.cli import app
from tests.support.folders import write_digits
from tests.support.stack import free_port, wait_for

GUIDE = (Path(__file__).parents[2] / "docs" / "train.md").read_text()


def blocks(section: str) -> list[str]:
    text = GUIDE.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell in which ``gmem`` is the command of this checkout."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script = tools / "gmem"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gmem_shared "$@"\n')
    script.chmod(0o755)
    return os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}


@contextlib.contextmanager
def running(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Run a command in the background; yield the file with its output."""
    output = folder / "serve.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield output
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_the_first_try_leads_from_a_folder_to_images_over_http(tmp_path, environment) -> None:
    digits = write_digits(tmp_path / "digits", per_class=20, classes=4, zoom=3)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, alias in (("zero", "cats"), ("one", "dogs"), ("two", "birds")):
        (digits / name).rename(photos / alias)
    (digits / "three").rename(photos / "more")

    train, serve, ask, _for_real = blocks("First try")
    finished = subprocess.run(
        ["bash", "-ec", train], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert "published bank dry-run@1 and model dry-run@1" in finished.stdout

    port = str(free_port())
    with running(serve.replace("8000", port), tmp_path, environment) as output:
        url = f"http://localhost:{port}"
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the front end")
        asked = subprocess.run(
            ["bash", "-ec", ask.replace("8000", port)],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr + output.read_text()
        names = [info["name"] for info in json.loads(asked.stdout)["classes"]]
        assert names == ["birds", "cats", "dogs", "more"]
        picture = Image.open(io.BytesIO((tmp_path / "cats.png").read_bytes()))
        assert picture.format == "PNG"
        assert picture.width >= 4 * 8


def test_every_option_of_the_guide_exists() -> None:
    known = {option for parameter in get_command(app).params for option in parameter.opts}
    known |= {o for parameter in get_command(app).params for o in parameter.secondary_opts}
    commands = re.findall(r"(?:gmem|gmem_shared) train ((?:[^\n]*\\\n)*[^\n`]*)", GUIDE)
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        for word in words:
            if word.startswith("--"):
                assert word in known, word
    for word in re.findall(r"`(--[a-z-]+)", GUIDE):
        assert word in known, word
