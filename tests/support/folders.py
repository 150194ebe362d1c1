"""Folders of image files, as a user has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from gmem_trainer.data import Dataset
from gmem_trainer.folders import ImageFiles, image_folder


def write_digits(root: Path, per_class: int, classes: int = 10, zoom: int = 1) -> Path:
    """Write digits as grey PNG files into one sub-folder per class."""
    bunch = load_digits()
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for label in range(classes):
        folder = root / names[label]
        folder.mkdir(parents=True)
        for row in np.flatnonzero(bunch.target == label)[:per_class]:
            pixels = np.round(bunch.images[row] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(pixels)
            image.resize((8 * zoom, 8 * zoom)).save(folder / f"{row:04d}.png")
    return root


def write_photos(root: Path, per_class: int, names: tuple[str, ...] = ("cats", "dogs")) -> Path:
    """Write colour images of several formats and sizes, each of one noisy colour."""
    random = np.random.default_rng(0)
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            width, height = random.integers(20, 60, size=2)
            noise = random.integers(-20, 20, size=(height, width, 3))
            pixels = np.clip(60 + 130 * number + noise, 0, 255).astype(np.uint8)
            suffix = (".png", ".jpg", ".webp")[index % 3]
            Image.fromarray(pixels).save(root / name / f"{index:03d}{suffix}")
    return root


def small_folder(root: Path) -> Dataset[ImageFiles]:
    """Write and open 60 colour images of two classes, 16 pixels a side."""
    return image_folder(write_photos(root, per_class=30), side=16, seed=0)
