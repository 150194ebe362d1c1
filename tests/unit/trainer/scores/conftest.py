"""Sets of images on disk, and a feature space that is quick to compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays into an npz file, images first."""

    def write(*images: NDArray[np.uint8], name: str = "images.npz", **arrays: object) -> Path:
        np.savez(tmp_path / name, *images, **arrays)
        return tmp_path / name

    return write


@pytest.fixture
def folder(tmp_path: Path, pictures: NDArray[np.uint8]) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{number:06d}.png")
    return path
