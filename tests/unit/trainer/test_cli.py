import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gmem_shared.store import Store

SHORT = ["--steps", "40", "--checkpoint-every", "2", "--min-accuracy", "0"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gmem_shared", "train", "--preset", "digits", *arguments]


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"GMEM_STORE__URL": str(tmp_path / "store")}


def train(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True
    )


def digests(folder: Path) -> list[str]:
    store = Store.from_url(str(folder / "store"), folder / "cache")
    return [store.repository(k, "digits").alias("production").digest for k in ("banks", "models")]


@pytest.mark.slow
def test_a_process_killed_while_training_goes_on_bit_for_bit(tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    process = subprocess.Popen(
        command(*SHORT), env=environment(killed), cwd=killed, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not list(killed.glob(".gmem/train/*/training.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    store = Store.from_url(str(killed / "store"), killed / "cache")
    assert store.names("models") == []
    store.repository("banks", "digits").verify(store.repository("banks", "digits").latest())

    for folder in (killed, whole):
        finished = train(folder, *SHORT)
        assert finished.returncode == 0, finished.stderr
    assert digests(killed) == digests(whole)


@pytest.mark.slow
def test_images_below_the_gate_end_the_command_with_an_error(tmp_path) -> None:
    finished = train(tmp_path, "--steps", "1", "--no-publish", "--workdir", "work")
    assert finished.returncode == 1
    assert "aliases stay where they are" in finished.stdout
    assert not (tmp_path / "store").exists()
    private = Store.from_url(str(tmp_path / "work" / "store"), tmp_path / "cache")
    assert private.names("models") == ["digits"]


def test_what_is_there_is_not_trained_again_and_needs_no_torch(tmp_path) -> None:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    for kind in ("banks", "models"):
        repository = store.repository(kind, "digits")
        repository.set_alias("production", repository.publish({"file": b"content"}))
    script = (
        "import sys; from gmem_shared.cli import app;"
        "app(['train', '--preset', 'digits', '--if-missing'], standalone_mode=False);"
        "assert not {'torch', 'sklearn', 'scipy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], env=environment(tmp_path), check=True)


def test_an_unknown_preset_is_one_sentence_not_a_traceback(tmp_path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "gmem_shared", "train", "--preset", "imagenet"],
        env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stderr.strip() == (
        "gmem: expected one of digits, folder-small, gmem-v1-xl, gmem-v2-xl, sit-xl, repa-xl; "
        "found 'imagenet'"
    )


def test_without_images_or_a_recipe_there_is_nothing_to_train(tmp_path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "gmem_shared", "train"],
        env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stderr.startswith("gmem: expected images with --data FOLDER")
