"""Sets of images on disk, read one batch at a time: ADM's npz files and folders of pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gmem_shared.errors import InvalidRequestError

IMAGES = "arr_0"
"""The array of ADM's files that holds the images."""

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp"))
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ImageSet(Protocol):
    """Images that need not fit into memory."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Read all images in order, uint8 ``(size, height, width, 3)``; the last batch is rest."""
        ...


def open_images(path: Path) -> ImageSet:
    """Open an npz file with ``arr_0``, or a folder of PNG, JPEG or WebP pictures.

    Raises:
        InvalidRequestError: There are no images of that kind.
    """
    return FolderImages(path) if path.is_dir() else NpzImages(path)


class NpzImages:
    """The images of an npz file, uint8 ``(N, height, width, 3)`` under ``arr_0``.

    Raises:
        InvalidRequestError: The file has no such array.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as (_, shape):
            self._count = shape[0]

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Read all images in order."""
        with self._open() as (file, (count, *image)):
            for first in range(0, count, size):
                shape = (min(size, count - first), *image)
                data = file.read(int(np.prod(shape)))
                yield np.frombuffer(data, np.uint8).reshape(shape)

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """Open the array's entry behind its header. Nothing in the file is ever un-pickled."""
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{IMAGES}.npy") as file:
                read_header = _HEADERS[np.lib.format.read_magic(file)]
                shape, fortran_order, dtype = read_header(file)
                self._check(shape, dtype, fortran_order=fortran_order)
                yield file, shape
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InvalidRequestError(
                f"expected an npz file with images under {IMAGES!r} at {self._path}: {error}"
            ) from error

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran_order: bool) -> None:
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or fortran_order:
            raise InvalidRequestError(
                f"expected {IMAGES!r} of {self._path} to be uint8 (N, height, width, 3), "
                f"found {dtype} {shape}"
            )


class FolderImages:
    """The pictures in a folder and below, in the order of their paths, as colour images.

    They must have one size.

    Raises:
        InvalidRequestError: The folder has no pictures.
    """

    def __init__(self, path: Path) -> None:
        self._paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not self._paths:
            raise InvalidRequestError(f"expected PNG, JPEG or WebP pictures in {path}, found none")

    def __len__(self) -> int:
        return len(self._paths)

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Read all pictures in order.

        Raises:
            InvalidRequestError: A file is no picture, or of another size than the first.
        """
        expected = _read_picture(self._paths[0]).shape
        for first in range(0, len(self._paths), size):
            yield np.stack([_read_like(p, expected) for p in self._paths[first : first + size]])


def _read_like(path: Path, expected: tuple[int, ...]) -> NDArray[np.uint8]:
    picture = _read_picture(path)
    if picture.shape != expected:
        raise InvalidRequestError(
            f"expected pictures of one size, {expected[1]}x{expected[0]}, found {path} of "
            f"{picture.shape[1]}x{picture.shape[0]}"
        )
    return picture


def _read_picture(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError as error:
        raise InvalidRequestError(f"expected a picture in {path}: {error}") from error
