"""A user's own images: a folder of PNG, JPEG or WebP files, one sub-folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gmem_model.preprocessing import center_crop
from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import ClassInfo
from gmem_trainer.data import Dataset, Images

_log = structlog.get_logger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
MIN_HELD_OUT = 5
"""Images that validation and test need each: precision and recall look at three neighbours."""

_GREY_MODES = frozenset({"1", "L", "LA"})
_THREADS = 8


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Some files of a folder, read as squares of one size.

    Attributes:
        root: The folder.
        paths: Within it, ``(n,)``.
        labels: int32 ``(n,)``, class ids, -1 for none.
        source_ids: int64 ``(n,)``, positions among all files of the folder in sorted order.
        side: Of the centre crop, in pixels.
        channels: 3, or 1 for grey.
        skip_unreadable: Leave files out that cannot be decoded, with a warning in the log.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int32]
    source_ids: NDArray[np.int64]
    side: int
    channels: int
    skip_unreadable: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.int64]) -> ImageFiles:
        """Return the files at these positions, in this order."""
        paths = tuple(self.paths[row] for row in rows)
        return replace(
            self, paths=paths, labels=self.labels[rows], source_ids=self.source_ids[rows]
        )

    def read(self, rows: NDArray[np.int64]) -> Images:
        """Decode and crop files.

        Raises:
            InvalidRequestError: A file cannot be read, and is not to be skipped.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            squares = list(pool.map(self._square, (self.paths[row] for row in rows)))
        readable = np.array([square is not None for square in squares], bool)
        shape = (0, self.channels, self.side, self.side)
        pixels = np.stack([s for s in squares if s is not None]) if any(readable) else None
        kept = rows[readable]
        return Images(
            np.zeros(shape, np.float32) if pixels is None else pixels,
            self.labels[kept],
            self.source_ids[kept],
        )

    def origins(self, rows: NDArray[np.int64], uri: str) -> list[tuple[str, str]]:
        """Return uri and sha256 of each file."""
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = list(pool.map(self._digest, rows))
        return [(f"{uri}/{self.paths[row]}", d) for row, d in zip(rows, digests, strict=True)]

    def fingerprint(self) -> str:
        """Return the digest of names, sizes and times of change, and of how files are read."""
        digest = hashlib.sha256(f"{self.side} {self.channels} {self.skip_unreadable}".encode())
        for path, label in zip(self.paths, self.labels, strict=True):
            stat = (self.root / path).stat()
            digest.update(f"{path} {label} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _digest(self, row: int) -> str:
        return hashlib.sha256((self.root / self.paths[row]).read_bytes()).hexdigest()

    def _square(self, path: str) -> NDArray[np.float32] | None:
        try:
            return read_square(self.root / path, self.side, self.channels)
        except InvalidRequestError as error:
            if not self.skip_unreadable:
                raise
            _log.warning("image.skipped", reason=error.detail)
            return None


def read_square(path: Path, side: int, channels: int) -> NDArray[np.float32]:
    """Read a file as float32 ``(channels, side, side)`` in [-1, 1], upright, its centre cropped.

    Raises:
        InvalidRequestError: The file holds no image of 8 bits per channel, or only a part of one.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"its pixels have more than 8 bits (mode {image.mode})")
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidRequestError(
            f"expected an image of 8 bits per channel in {path}, found something else: {error}; "
            "repair or remove the file, or leave such files out with --skip-unreadable"
        ) from error
    pixels = center_crop(upright, side).reshape(side, side, channels)
    return (pixels.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)


def image_folder(
    root: Path, *, side: int, seed: int, skip_unreadable: bool = False
) -> Dataset[ImageFiles]:
    """Find the images of a folder and split them: 70 % train, 10 % validation, 20 % test.

    Sub-folders are classes, in sorted order; images that lie in the folder itself belong to none.
    Colours are kept unless all images are grey.

    Args:
        root: The folder.
        side: Of the squares to train on.
        seed: Of the split, which takes the same share of each class.
        skip_unreadable: Leave broken files out instead of ending the run.

    Raises:
        InvalidRequestError: There are no images, too few, or some beside class folders.
    """
    paths = _find(root)
    names = sorted({_class_of(path) for path in paths})
    if "" in names and len(names) > 1:
        loose = next(path for path in paths if not _class_of(path))
        raise InvalidRequestError(
            f"expected the images of {root} all in sub-folders, one per class, or all in the "
            f"folder itself, found {loose} beside the sub-folder {names[1]}; move one of them"
        )
    channels = _channels(root, paths, skip_unreadable=skip_unreadable)
    ids = {name: number for number, name in enumerate(names)} if names != [""] else {"": -1}
    files = ImageFiles(
        root, tuple(paths), np.array([ids[_class_of(path)] for path in paths], np.int32),
        np.arange(len(paths)), side, channels, skip_unreadable,
    )  # fmt: skip
    train, validation, test = (files.take(rows) for rows in split(files.labels, seed))
    if min(len(validation), len(test)) < MIN_HELD_OUT:
        raise InvalidRequestError(
            f"expected enough images to keep {MIN_HELD_OUT} of them for validation, about "
            f"{round(MIN_HELD_OUT / VALIDATION_SHARE)}, found {len(paths)} in {root}"
        )
    return Dataset(
        name=root.resolve().name,
        uri=root.resolve().as_uri(),
        licence="",
        classes=tuple(ClassInfo(number, name) for name, number in ids.items() if number >= 0),
        train=train,
        validation=validation,
        test=test,
    )


def split(
    labels: NDArray[np.int32], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Divide rows into train, validation and test, each with about its share of every class."""
    random = np.random.default_rng(seed)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        test = round(TEST_SHARE * len(rows))
        validation = test + round(VALIDATION_SHARE * len(rows))
        for part, some in zip(
            parts, (rows[validation:], rows[test:validation], rows[:test]), strict=True
        ):
            part.append(some)
    train, held, last = (np.sort(np.concatenate(part)) for part in parts)
    return train, held, last


def _find(root: Path) -> list[str]:
    if not root.is_dir():
        raise InvalidRequestError(f"expected a folder with images, found none at {root}")
    found = (path.relative_to(root) for path in root.rglob("*"))
    paths = sorted(
        path.as_posix()
        for path in found
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
    )
    if not paths:
        kinds = ", ".join(sorted(SUFFIXES))
        raise InvalidRequestError(f"expected images ({kinds}) in {root}, found none")
    return paths


def _class_of(path: str) -> str:
    return path.split("/")[0] if "/" in path else ""


def _channels(root: Path, paths: Sequence[str], *, skip_unreadable: bool) -> int:
    """Return 1 if all images are grey; finds files that are no images before anything is done."""

    def mode(path: str) -> str | None:
        try:
            with Image.open(root / path) as image:
                return image.mode
        except (OSError, UnidentifiedImageError) as error:
            if skip_unreadable:
                return None
            raise InvalidRequestError(
                f"expected an image in {root / path}, found something else; repair or remove the "
                "file, or leave such files out with --skip-unreadable"
            ) from error

    with ThreadPoolExecutor(_THREADS) as pool:
        modes = {mode for mode in pool.map(mode, paths) if mode is not None}
    return 1 if modes <= _GREY_MODES else 3
