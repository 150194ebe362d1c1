"""What a set of images is compared with: statistics, images, or both, as ADM's files hold them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.metrics import Gaussian
from gmem_trainer.scores.images import IMAGES, ImageSet, open_images

POOLED_MOMENTS = ("mu", "sigma")
SPATIAL_MOMENTS = ("mu_s", "sigma_s")


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of the real images.

    Attributes:
        images: For precision and recall, and for the moments that are not given.
        pooled, spatial: Given moments; they go before those of the images, which in ADM's files
            are but a part of the set.
    """

    images: ImageSet | None
    pooled: Gaussian | None = None
    spatial: Gaussian | None = None


def open_reference(path: Path) -> Reference:
    """Open an npz file with ``mu`` and ``sigma``, with images under ``arr_0``, or a folder.

    Raises:
        InvalidRequestError: There is neither.
    """
    if path.is_dir():
        return Reference(open_images(path))
    names = _names(path)
    pooled, spatial = (_moments(path, names, pair) for pair in (POOLED_MOMENTS, SPATIAL_MOMENTS))
    has_images = IMAGES in names
    if pooled is None and not has_images:
        raise InvalidRequestError(
            f"expected 'mu' and 'sigma', or images under {IMAGES!r}, in {path}, found "
            f"{sorted(names)}"
        )
    return Reference(open_images(path) if has_images else None, pooled, spatial)


def _names(path: Path) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidRequestError(f"expected an npz file at {path}: {error}") from error


def _moments(path: Path, names: frozenset[str], pair: tuple[str, str]) -> Gaussian | None:
    if not names.issuperset(pair):
        return None
    mean, covariance = (_read(path, name) for name in pair)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InvalidRequestError(
            f"expected {pair[0]!r} (d,) and {pair[1]!r} (d, d) in {path}, found {mean.shape} and "
            f"{covariance.shape}"
        )
    return Gaussian(mean, covariance)


def _read(path: Path, name: str) -> NDArray[np.float64]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name], np.float64)
    except ValueError as error:
        raise InvalidRequestError(
            f"expected numbers under {name!r} in {path}, found something else, which was not "
            f"executed: {error}"
        ) from error
