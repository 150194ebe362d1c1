"""The data sets a preset can train on, split once, by seed, into train, validation and test.

Training sees ``train`` only, choices (hyper-parameters, the quality gate) see ``validation``, and
``test`` is read by the final evaluation and by nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gmem_shared.types import ClassInfo

DIGITS_URI = "https://archive.ics.uci.edu/dataset/80"
"""Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), the part in scikit-learn."""

_DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_LEVELS = 16


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: float32 ``(n, channels, height, width)`` in [-1, 1].
        labels: int32 ``(n,)``, class ids.
        source_ids: int64 ``(n,)``, position in the original data set.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int32]
    source_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Images:
        """Return the images at these positions, in this order."""
        return Images(self.pixels[rows], self.labels[rows], self.source_ids[rows])

    def find(self, source_ids: NDArray[np.int64]) -> Images:
        """Return the images with these source ids, in this order."""
        order = np.argsort(self.source_ids)
        return self.take(order[np.searchsorted(self.source_ids, source_ids, sorter=order)])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set in three disjoint parts, and where it comes from."""

    name: str
    uri: str
    licence: str
    classes: tuple[ClassInfo, ...]
    train: Images
    validation: Images
    test: Images

    def provenance(self) -> pa.Table:
        """Describe every training image: source id, uri, sha256 of its pixels, licence."""
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in self.train.pixels]
        return pa.table(
            {
                "source_id": pa.array(self.train.source_ids, pa.int64()),
                "uri": [f"{self.uri}#{source_id}" for source_id in self.train.source_ids],
                "sha256": digests,
                "licence": [self.licence] * len(self.train),
            }
        )


def digits(seed: int) -> Dataset:
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
