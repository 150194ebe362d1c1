"""``torchrun … -m gmem_shared train`` publishes what ``gmem train`` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gmem_shared.store import Store
from tests.support.folders import write_photos
from tests.support.stack import free_port

OPTIONS = [
    "--image-size", "8", "--steps", "4", "--batch-size", "8", "--name", "pets", "--device", "cpu",
]  # fmt: skip


def train(folder: Path, photos: Path, *launcher: str) -> dict[str, Path]:
    """Run the command and return the network and the snippets it published."""
    folder.mkdir()
    finished = subprocess.run(
        [sys.executable, *launcher, "-m", "gmem_shared", "train", "--data", str(photos), *OPTIONS],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GMEM_STORE__URL": str(folder / "store")},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("published bank pets@1 and model pets@1") == 1
    store = Store.from_url(str(folder / "store"), folder / "cache")
    models, banks = store.repository("models", "pets"), store.repository("banks", "pets")
    return {
        "network": models.open(models.resolve("production")).path("network.safetensors"),
        "snippets": banks.open(banks.resolve("production")).path("snippets.safetensors"),
    }


@pytest.mark.slow
def test_two_processes_publish_what_one_does(tmp_path) -> None:
    photos = write_photos(tmp_path / "photos", per_class=30)
    one = train(tmp_path / "one", photos)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    two = train(tmp_path / "two", photos, *torchrun, "--master-port", str(free_port()))
    assert one["snippets"].read_bytes() == two["snippets"].read_bytes()
    expected, found = load_file(one["network"]), load_file(two["network"])
    for name, tensor in expected.items():
        assert (tensor - found[name]).abs().max().item() < 1e-4, name
