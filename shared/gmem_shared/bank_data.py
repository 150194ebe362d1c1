"""One opened bank version: memory-mapped arrays and what can be read from them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import UnknownClassError, UnknownRowError
from gmem_shared.types import BankInfo, ClassInfo, Snippets, VersionRef


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class BankData:
    """One bank version; every array is read-only.

    Attributes:
        classes: Ascending by id; ``rows`` counts what a draw can return.
        vectors: float16 or float32 ``(n, d)``.
        labels: int32 ``(n,)``, ascending, -1 for none.
        source_ids: int64 ``(n,)``.
        weights: uint32 ``(n,)``, as published, tombstones not applied.
        class_offsets: int64 ``(C + 1,)``; class ``i`` owns rows ``class_offsets[i:i+2]``.
        cumulative_weights: uint64 ``(n + 1,)``; a tombstoned row adds nothing.
        tombstones: uint8 ``(ceil(n / 8),)``, bit ``r % 8`` of byte ``r // 8`` for row ``r``.
        mean_weights: float64 ``(C + 1,)``, mean weight of the drawable rows: of those without a
            label, then of each class; 1 where there are none.
        has_deleted: Whether any row is tombstoned.
        equal_weights: Whether all mean weights are the same: then a row's class need not be known.
    """

    version: VersionRef
    encoder: str
    normalized: bool
    classes: tuple[ClassInfo, ...]
    vectors: NDArray[np.floating[Any]]
    labels: NDArray[np.int32]
    source_ids: NDArray[np.int64]
    weights: NDArray[np.uint32]
    class_offsets: NDArray[np.int64]
    cumulative_weights: NDArray[np.uint64]
    tombstones: NDArray[np.uint8]
    mean_weights: NDArray[np.float64]
    has_deleted: bool = field(init=False)
    equal_weights: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_deleted", bool(self.tombstones.any()))
        equal = bool((self.mean_weights == self.mean_weights[0]).all())
        object.__setattr__(self, "equal_weights", equal)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dimension(self) -> int:
        """Length of a snippet."""
        return int(self.vectors.shape[1])

    def class_rows(self, label: int) -> tuple[int, int]:
        """Return the half-open row range of a class, tombstoned rows included.

        Raises:
            UnknownClassError: The bank has no such class.
        """
        position = bisect_left(self.classes, label, key=lambda info: info.id)
        if position == len(self.classes) or self.classes[position].id != label:
            ids = [info.id for info in self.classes]
            raise UnknownClassError(
                f"expected one of the {len(ids)} class ids of bank {self.version} "
                f"({shorten(ids)}), found {label}"
            )
        return int(self.class_offsets[position]), int(self.class_offsets[position + 1])

    def tombstoned(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each row number, which must exist, whether the row was deleted."""
        bits: NDArray[np.uint8] = self.tombstones[rows >> 3] >> (rows & 7).astype(np.uint8)
        deleted: NDArray[np.bool_] = (bits & 1) != 0
        return deleted

    def take(self, rows: NDArray[np.int64], *, drawn: bool = False) -> Snippets:
        """Copy rows out of the mapping, in the order given.

        Args:
            rows: int64 ``(m,)``.
            drawn: Whether they come from a draw, which only gives rows that exist.

        Raises:
            UnknownRowError: A row is out of range or tombstoned.
        """
        if not drawn:
            self._check_exist(rows)
        return Snippets(
            version=self.version,
            encoder=self.encoder,
            vectors=self.vectors.take(rows, axis=0),
            rows=rows,
            source_ids=self.source_ids.take(rows),
            labels=self.labels.take(rows),
            weights=self.weights.take(rows) / self._mean_weights_of(rows),
        )

    def _check_exist(self, rows: NDArray[np.int64]) -> None:
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise UnknownRowError(
                f"expected rows 0 … {len(self) - 1} of bank {self.version}, "
                f"found {shorten(outside.tolist())}"
            )
        if not self.has_deleted:
            return
        deleted = rows[self.tombstoned(rows)]
        if len(deleted):
            raise UnknownRowError(
                f"expected rows of bank {self.version} that still exist, but "
                f"{shorten(deleted.tolist())} were deleted; ask for others or an older version"
            )

    def _mean_weights_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.equal_weights:
            return self.mean_weights[:1]
        means: NDArray[np.float64] = self.mean_weights.take(
            np.searchsorted(self.class_offsets, rows, side="right")
        )
        return means

    def info(self, aliases: Iterable[str] = ()) -> BankInfo:
        """Describe the version; ``rows`` counts stored rows: row numbers end at ``rows - 1``."""
        return BankInfo(
            version=self.version,
            encoder=self.encoder,
            dimension=self.dimension,
            rows=len(self),
            dtype=str(self.vectors.dtype),
            normalized=self.normalized,
            classes=self.classes,
            aliases=tuple(sorted(aliases)),
        )


def shorten(values: Sequence[object]) -> str:
    """Name the first few values, for a message."""
    shown = ", ".join(str(value) for value in values[:5])
    return shown + (f", … ({len(values)} in all)" if len(values) > 5 else "")
