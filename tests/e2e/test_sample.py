"""The paper's job: 50,000 images by one command, killed twice, and what they score."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from gmem_trainer.data import digits
from gmem_trainer.presets import preset
from gmem_trainer.scores.features import DigitsExtractor
from gmem_trainer.scores.moments import Moments
from tests.support.stack import wait_for

IMAGES = 50_000
PARTS = 200


class Job:
    """``gmem sample`` of the digits model, by two processes, in a folder of its own."""

    def __init__(self, store: Path, folder: Path) -> None:
        folder.mkdir()
        self.out = folder / "samples.npz"
        self.parts = folder / "samples.npz.parts"
        self._command = [
            sys.executable, "-m", "gmem_shared", "sample", "--model", "digits",
            "--num-images", str(IMAGES), "--steps", "4", "--processes", "2",
            "--store", str(store), "--out", str(self.out),
        ]  # fmt: skip

    def run(self, *changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._command, *changes], capture_output=True, text=True)

    def finished(self) -> int:
        return len(list(self.parts.glob("*.safetensors")))

    def run_until(self, parts: int) -> tuple[psutil.Process, list[psutil.Process]]:
        """Start the job; return its process and its children once so many parts are there."""
        process = psutil.Popen([*self._command], start_new_session=True, stderr=subprocess.DEVNULL)
        wait_for(lambda: self.finished() >= parts, f"{parts} parts", seconds=240)
        assert process.poll() is None
        return process, process.children(recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_killed_twice_makes_every_image_once(digits_store: Path, tmp_path: Path) -> None:
    killed, whole = (Job(digits_store, tmp_path / name) for name in ("killed", "whole"))

    process, _ = killed.run_until(PARTS // 4)
    os.killpg(process.pid, signal.SIGKILL)  # with its children, as a machine that loses power
    process.wait()
    assert 0 < killed.finished() < PARTS

    refused = killed.run("--seed", "1")
    assert refused.returncode == 1
    assert "seed 1 instead of 0" in refused.stderr

    process, children = killed.run_until(PARTS // 2)
    process.send_signal(signal.SIGKILL)  # alone, as by a lack of memory
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert gone
    assert not alive
    assert not killed.out.exists()

    for job in (killed, whole):
        result = job.run()
        assert result.returncode == 0, result.stderr
        assert not job.parts.exists()
    assert killed.out.read_bytes() == whole.out.read_bytes()
    with np.load(killed.out, allow_pickle=False) as archive:
        assert sorted(set(archive["indices"].tolist())) == list(range(IMAGES))
        assert archive["arr_0"].shape == (IMAGES, 8, 8, 3)

    scores = [scores_of(job.out, tmp_path) for job in (killed, whole)]
    assert scores[0] == scores[1]
    assert scores[0]["images"] == IMAGES
    assert scores[0]["frechet"] < 0.1 * noise_distance(tmp_path)


def scores_of(samples: Path, folder: Path) -> dict[str, object]:
    """What ``gmem evaluate`` says of images against real digits that training never saw."""
    reference, result = folder / "reference.npz", folder / "scores.json"
    real = real_digits()
    if not reference.exists():
        moments = Moments()
        moments.add(DigitsExtractor()(real).pooled)
        gaussian = moments.gaussian()
        np.savez(reference, mu=gaussian.mean, sigma=gaussian.covariance)
    command = ["evaluate", str(samples), "--reference", str(reference), "--features", "digits"]
    options = ["--batch-size", "1000", "--json", str(result)]
    subprocess.run([sys.executable, "-m", "gmem_shared", *command, *options], check=True)
    scores: dict[str, object] = json.loads(result.read_text())
    del scores["samples"]
    return scores


def noise_distance(folder: Path) -> float:
    """The Fréchet distance of noise, by the same command."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "noise.npz", noise.repeat(3, axis=-1))
    return float(str(scores_of(folder / "noise.npz", folder)["frechet"]))


def real_digits() -> np.ndarray:
    pixels = digits(preset("digits").split_seed).test.pixels.transpose(0, 2, 3, 1)
    return np.round((pixels + 1) * 127.5).astype(np.uint8).repeat(3, axis=-1)
