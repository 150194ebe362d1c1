"""Labels for a bank that came without: from a list in the order of its rows, or by likeness."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gmem_shared.bank_rows import BLOCK_ROWS, Progress, Rows
from gmem_shared.errors import InvalidRequestError
from gmem_shared.mixing import normalize

Labels = NDArray[np.int64]


def read_index(path: Path, rows: int) -> Labels:
    """Read one class id per row, -1 for none.

    Args:
        path: ``.npy``; ``.json``, a list; ``.txt``, one per line; or ``.csv`` with a column
            ``label``.
        rows: How many there must be.

    Raises:
        InvalidRequestError: The file has another form or length.
    """
    try:
        values = np.asarray(_read_index(path))
        labels = values.astype(np.int64)
        if values.dtype.kind not in "iu" or labels.shape != (rows,):
            raise ValueError(f"found {values.dtype} {values.shape}")
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InvalidRequestError(
            f"expected one class id for each of {rows} rows in {path}, as .npy, .json, .txt or "
            f".csv with a column 'label': {error}"
        ) from error
    return labels


def _read_index(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".txt":
        return [int(line) for line in path.read_text().split()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [int(record["label"]) for record in csv.DictReader(file)]
    raise ValueError(f"found {path.name!r}")


@dataclass(frozen=True, slots=True)
class Prototypes:
    """The mean direction of each class of a labelled feature set.

    Attributes:
        classes: int64 ``(c,)``, ascending.
        sums: float32 ``(c, d)``, sums of the unit features of each class.
        agreement: Share of labelled features whose own class is nearest when the feature itself
            is left out; features that are alone in their class cannot be judged and do not count.
        judged: How many were.
    """

    classes: Labels
    sums: NDArray[np.float32]
    agreement: float
    judged: int

    @classmethod
    def of(cls, features: NDArray[np.floating[Any]], labels: Labels) -> Prototypes:
        """Build the prototypes of features ``(n, d)`` and measure how well they tell classes."""
        classes, member = np.unique(labels, return_inverse=True)
        unit = normalize(features)
        sums = np.zeros((len(classes), unit.shape[1]), np.float32)
        np.add.at(sums, member, unit)
        judged = np.flatnonzero(np.bincount(member)[member] > 1)
        right = 0
        for start in range(0, len(judged), BLOCK_ROWS):
            rows = judged[start : start + BLOCK_ROWS]
            own = member[rows]
            scores = unit[rows] @ normalize(sums).T
            without = normalize(sums[own] - unit[rows])
            scores[np.arange(len(rows)), own] = (without * unit[rows]).sum(axis=1)
            right += int((scores.argmax(axis=1) == own).sum())
        return cls(classes, sums, right / max(len(judged), 1), len(judged))

    def label(
        self, vectors: Rows, progress: Progress = lambda rows: None
    ) -> tuple[Labels, NDArray[np.float32]]:
        """Give each vector the class of the nearest prototype, by cosine.

        Returns:
            Labels ``(n,)``, and by how much the best cosine exceeds the second best, ``(n,)``.
        """
        prototypes = normalize(self.sums)
        labels, margins = [], []
        for start in range(0, vectors.shape[0], BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, vectors.shape[0]))
            scores = normalize(vectors[rows]) @ prototypes.T
            labels.append(self.classes[scores.argmax(axis=1)])
            best = np.sort(scores, axis=1)[:, -2:]
            margins.append(best[:, -1] - best[:, 0])
            progress(len(rows))
        return np.concatenate(labels), np.concatenate(margins)


def read_prototypes(paths: Sequence[Path], width: int) -> Prototypes:
    """Build prototypes from a labelled feature set.

    Args:
        paths: Files ``.npz`` or ``.safetensors`` with ``vectors`` ``(n, d)`` and ``labels``
            ``(n,)``; features labelled -1 are left out. Shards of prepared images are such files,
            too; they call the vectors ``cls_tokens``.
        width: d of the bank.

    Raises:
        InvalidRequestError: A file holds anything else, or no feature is labelled.
    """
    sets = [_read_labelled(path, width) for path in paths]
    vectors, labels = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    if not len(labels):
        raise InvalidRequestError(f"expected labelled features in {', '.join(map(str, paths))}")
    return Prototypes.of(vectors, labels)


def _read_labelled(path: Path, width: int) -> tuple[NDArray[Any], Labels]:
    try:
        arrays = _arrays(path)
        vectors, labels = arrays.get("vectors", arrays.get("cls_tokens")), arrays["labels"]
        if vectors is None or vectors.shape != (*labels.shape, width) or labels.dtype.kind != "i":
            raise ValueError(f"found {sorted(arrays)}")
    except (OSError, ValueError, KeyError, TypeError, EOFError, SafetensorError) as error:
        raise InvalidRequestError(
            f"expected `vectors` (n, {width}) and whole-number `labels` (n,) in {path}, as .npz or "
            f".safetensors: {error}"
        ) from error
    return vectors[labels >= 0], labels[labels >= 0].astype(np.int64)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    names = ("vectors", "cls_tokens", "labels")
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118 (no dict)
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in names if name in archive}
