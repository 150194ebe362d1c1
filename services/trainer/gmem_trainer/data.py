"""Data sets, split once, by seed, into train, validation and test.

Training sees ``train`` only, choices (hyper-parameters, the quality gate) see ``validation``, and
``test`` is read by the final evaluation and by nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gmem_shared.types import ClassInfo

DIGITS_URI = "https://archive.ics.uci.edu/dataset/80"
"""Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), the part in scikit-learn."""

HELD_BYTES = 1 << 30
"""Most pixels of one part of a data set that are held in memory."""

_DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_LEVELS = 16


class Source(Protocol):
    """Images that are read when they are asked for; `Images` is one that holds them."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class ids ``(n,)``, -1 for none."""
        ...

    @property
    def source_ids(self) -> NDArray[np.int64]:
        """Position of each image in the original data set, ``(n,)``."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.int64]) -> Images:
        """Read the images at these positions; those that cannot be read may be left out."""
        ...

    @property
    def channels(self) -> int:
        """Of an image: 3, or 1 for grey."""
        ...

    def origins(self, rows: NDArray[np.int64], uri: str) -> list[tuple[str, str]]:
        """Return uri and sha256 of each image, given the uri of the data set."""
        ...

    def fingerprint(self) -> str:
        """Return a text that changes when an image does."""
        ...


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: float32 ``(n, channels, height, width)`` in [-1, 1].
        labels: int32 ``(n,)``, class ids, -1 for none.
        source_ids: int64 ``(n,)``, position in the original data set.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int32]
    source_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Of an image."""
        return int(self.pixels.shape[1])

    def take(self, rows: NDArray[np.int64]) -> Images:
        """Return the images at these positions, in this order."""
        return Images(self.pixels[rows], self.labels[rows], self.source_ids[rows])

    def find(self, source_ids: NDArray[np.int64]) -> Images:
        """Return the images with these source ids, in this order."""
        return self.take(positions(self.source_ids, source_ids))

    def read(self, rows: NDArray[np.int64]) -> Images:
        """Return the images at these positions."""
        return self.take(rows)

    def origins(self, rows: NDArray[np.int64], uri: str) -> list[tuple[str, str]]:
        """Return the place in the data set, and the sha256 of the pixels, of each image."""
        return [
            (
                f"{uri}#{self.source_ids[row]}",
                hashlib.sha256(self.pixels[row].tobytes()).hexdigest(),
            )
            for row in rows
        ]

    def fingerprint(self) -> str:
        """Return the digest of pixels, labels and ids."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        for array in (self.pixels, self.labels, self.source_ids):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


Part = TypeVar("Part", bound=Source)


@dataclass(frozen=True, slots=True)
class Dataset(Generic[Part]):
    """A data set in three disjoint parts, and where it comes from."""

    name: str
    uri: str
    licence: str
    classes: tuple[ClassInfo, ...]
    train: Part
    validation: Part
    test: Part

    def provenance(self, source_ids: NDArray[np.int64] | None = None) -> pa.Table:
        """Describe training images, by default all: source id, uri, sha256, licence."""
        ids = self.train.source_ids if source_ids is None else source_ids
        origins = self.train.origins(positions(self.train.source_ids, ids), self.uri)
        return pa.table(
            {
                "source_id": pa.array(ids, pa.int64()),
                "uri": [uri for uri, _ in origins],
                "sha256": [digest for _, digest in origins],
                "licence": [self.licence] * len(ids),
            }
        )

    def sample(self, limit: int, seed: int) -> Dataset[Images]:
        """Read at most ``limit`` images, or `HELD_BYTES`, of each part, drawn by the seed."""
        return Dataset(
            self.name,
            self.uri,
            self.licence,
            self.classes,
            *(_sample(part, limit, seed) for part in (self.train, self.validation, self.test)),
        )


def positions(among: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of ``wanted`` stands in ``among``, which holds all of them once."""
    order = np.argsort(among)
    found: NDArray[np.int64] = order[np.searchsorted(among, wanted, sorter=order)]
    return found


def _sample(part: Source, limit: int, seed: int) -> Images:
    rows = np.arange(len(part))
    limit = min(limit, HELD_BYTES // max(part.read(rows[:1]).pixels.nbytes, 1))
    if len(part) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(len(part), limit, replace=False))
    return part.read(rows)


def digits(seed: int) -> Dataset[Images]:
    """Load the 1797 8x8 digits of scikit-learn: 70 % train, 10 % validation, 20 % test.

    Every part has the same share of each class. The same writers occur in all three.
    """
    bunch = load_digits()
    pixels = (bunch.images[:, np.newaxis] * (2 / _DIGIT_LEVELS) - 1).astype(np.float32)
    everything = Images(pixels, bunch.target.astype(np.int32), np.arange(len(pixels)))
    train, validation, test = _split(everything, seed)
    return Dataset(
        name="digits",
        uri=DIGITS_URI,
        licence="CC BY 4.0",
        classes=tuple(ClassInfo(i, name, (str(i),)) for i, name in enumerate(_DIGIT_NAMES)),
        train=train,
        validation=validation,
        test=test,
    )


def _split(images: Images, seed: int) -> tuple[Images, Images, Images]:
    rows = np.arange(len(images))
    seen, test = train_test_split(
        rows, test_size=0.2, stratify=images.labels, random_state=seed % 2**32
    )
    train, validation = train_test_split(
        seen, test_size=0.125, stratify=images.labels[seen], random_state=seed % 2**32
    )
    return images.take(train), images.take(validation), images.take(test)
