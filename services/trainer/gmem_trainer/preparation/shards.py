"""Shards of prepared examples: what a killed run has done, and what a later one need not do again.

The layout is that of GMem v2's training data, ``latents_rank00_shard000.safetensors`` with one line
per image, so that data prepared elsewhere is read as well:

| tensor | shape | |
|---|---|---|
| ``latents`` | (n, C, S, S) | of the autoencoder, unscaled; pixels in [-1, 1] without one |
| ``cls_tokens`` | (n, d) | the snippet |
| ``representations`` | (n, T, k) | the encoder's tokens, if something is to be aligned with them |
| ``labels`` | (n,) | class id, -1 for none |
| ``source_ids`` | (n,) | ours only: the image's position in its data set |

Tensors with the suffix ``_flip`` are those of the mirrored image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gmem_shared.errors import InvalidRequestError
from gmem_shared.tensor_file import map_tensors
from gmem_trainer.workdir import replacing

Array = NDArray[Any]

LATENTS, SNIPPETS, TOKENS = "latents", "cls_tokens", "representations"
LABELS, SOURCE_IDS = "labels", "source_ids"
FLIPPED = "_flip"

_NAME = re.compile(r"latents_rank(\d+)_shard(\d+)\.safetensors")


def shard_path(folder: Path, number: int) -> Path:
    """Return where shard ``number`` lies."""
    return folder / f"latents_rank00_shard{number:03d}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a shard together with the digest of its content."""
    contents = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(contents, partial, {"sha256": _digest(contents)})


def is_complete(path: Path) -> bool:
    """Tell whether a shard of ours is there with the content it was written with."""
    try:
        with safe_open(path, "numpy") as file:
            expected = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return False
    return expected == _digest(tensors)


def _digest(tensors: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape} ".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ShardRows:
    """One tensor of all shards, mapped: row r is read when it is asked for.

    One of `gmem_shared.bank_rows.Rows`.
    """

    arrays: tuple[Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, …)``."""
        return sum(len(array) for array in self.arrays), *self.arrays[0].shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self.arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Array:
        """Copy rows ``(m, …)`` out of the mapping, in the order given."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        ends = np.cumsum([len(array) for array in self.arrays])
        owners = np.searchsorted(ends, rows, side="right")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for owner in np.unique(owners):
            mine = owners == owner
            array = self.arrays[owner]
            found[mine] = array[rows[mine] - (ends[owner] - len(array))]
        return found


@dataclass(frozen=True, slots=True)
class Prepared:
    """All shards of a data set.

    Attributes:
        labels: int32 ``(n,)``.
        source_ids: int64 ``(n,)``.
    """

    tensors: Mapping[str, ShardRows]
    labels: NDArray[np.int32]
    source_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, paths: Sequence[Path]) -> Prepared:
        """Map shards, which follow each other in this order.

        Raises:
            InvalidRequestError: They do not hold the same kinds of tensors.
        """
        shards = [map_tensors(path) for path in paths]
        names = set(shards[0])
        for path, shard in zip(paths, shards, strict=True):
            if set(shard) != names or not {LATENTS, LABELS} <= names:
                raise InvalidRequestError(
                    f"expected {LATENTS} and {LABELS}, and in every shard the same tensors, found "
                    f"{', '.join(sorted(shard))} in {path}"
                )
        tensors = {n: ShardRows(tuple(shard[n] for shard in shards)) for n in names}
        everything = np.arange(len(tensors[LABELS]))
        ids = tensors[SOURCE_IDS][everything] if SOURCE_IDS in names else everything
        return cls(tensors, tensors[LABELS][everything].astype(np.int32), ids)


def holds_shards(folder: Path) -> bool:
    """Tell whether a folder holds prepared latents rather than images."""
    return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def find_shards(folder: Path) -> list[Path]:
    """Return the shards in a folder, ordered by rank and number.

    Raises:
        InvalidRequestError: There are none.
    """
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    if not found:
        raise InvalidRequestError(
            f"expected latents_rankRR_shardSSS.safetensors in {folder}, found none"
        )
    return [path for _, path in sorted(found, key=lambda item: [int(n) for n in item[0].groups()])]
