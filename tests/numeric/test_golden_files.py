"""Every file of the golden set is read by what imports its layout, to the numbers it holds."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gmem_bank.labels import read_prototypes
from gmem_model.importing.banks import read_bank
from gmem_model.importing.latent_statistics import read_latent_statistics
from gmem_model.importing.layouts import read_checkpoint
from gmem_shared.errors import InvalidRequestError
from gmem_shared.mixing import normalize
from tests.numeric.golden_cases import GOLDEN_DIR, index

FILES: dict[str, Any] = index()["checkpoint_files"]


def read_shard(path: Path) -> object:
    return read_prototypes([path], load_file(path)["cls_tokens"].shape[1])


def read_frequencies(path: Path) -> object:
    return read_bank(path.with_suffix(".pth"), path).frequencies


READERS: dict[str, Callable[[Path], object]] = {
    ".freq": read_frequencies,
    ".safetensors": read_shard,
    ".pkl": read_checkpoint,
}


def read(path: Path) -> object:
    if path.suffix in READERS:
        return READERS[path.suffix](path)
    for reader in (read_checkpoint, read_bank, read_latent_statistics):
        try:
            return reader(path)
        except InvalidRequestError:
            continue
    raise AssertionError(f"nothing reads {path.name}: {FILES[path.name]['layout']}")


def expected(tensor: str) -> Tensor:
    """A tensor that belongs to the files but to no case."""
    (file,) = (f["file"] for f in index()["files"] if tensor in f["tensors"])
    return load_file(GOLDEN_DIR / file)[tensor]


def present(*names: str) -> list[str]:
    """Which of these files the set has; another set may lack some."""
    return [name for name in names if name in FILES]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_the_published_one_and_is_read(name: str) -> None:
    path = GOLDEN_DIR / "ckpt" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FILES[name]["sha256"]
    assert read(path) is not None


@pytest.mark.parametrize("name", present("v1_gmem.pth", "v1_gmem_freq_ndarray.pth", "bank.pth"))
def test_memory_of_gmem_v1(name: str) -> None:
    bank = read_bank(GOLDEN_DIR / "ckpt" / name)
    rows = bank.vectors[np.arange(bank.vectors.shape[0])]
    np.testing.assert_array_equal(rows, expected("memorybank"))
    assert bank.frequencies is not None
    assert bank.frequencies.tolist() == expected("memoryfreq").tolist()


@pytest.mark.parametrize("name", present("bank.freq"))
def test_frequencies_are_found_by_the_suffix_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my.pth.files"
    folder.mkdir()
    for file in ("bank.pth", name):
        shutil.copy(GOLDEN_DIR / "ckpt" / file, folder / file)
    assert read_bank(folder / "bank.pth").frequencies is not None


@pytest.mark.parametrize("name", present("bank_full.pth", "bank_dmd.pth"))
def test_banks_of_gmem_v2(name: str) -> None:
    bank = read_bank(GOLDEN_DIR / "ckpt" / name)
    form = bank.layout
    assert name == f"bank_{form}.pth"
    found = normalize(bank.vectors[expected("bank_index").numpy()])  # as a sampler draws them
    np.testing.assert_allclose(found, expected(f"bank_{form}_rows"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", present("latents_stats.pt"))
def test_statistics_of_latents(name: str) -> None:
    scaling = read_latent_statistics(GOLDEN_DIR / "ckpt" / name)
    torch.testing.assert_close(scaling.mean, expected("latent_mean"), rtol=0, atol=0)
    torch.testing.assert_close(scaling.std, expected("latent_std"), rtol=0, atol=0)
