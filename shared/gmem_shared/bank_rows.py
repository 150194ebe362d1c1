"""Vectors of a bank that is being written: fetched in blocks, never held as a whole.

A bank of 1.28 million snippets of 768 numbers is 4 GB. Whoever writes one asks for some rows at a
time, in the order of the new bank; where they come from is behind `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import InvalidRequestError

BLOCK_ROWS = 4096

Progress = Callable[[int], None]
"""Called with the number of rows done since the last call."""


class Rows(Protocol):
    """A matrix ``(n, d)`` whose rows are fetched when they are asked for. A numpy matrix is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, d)``."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is fetched."""
        ...

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class FileRows:
    """Rows that lie one after the other in a file.

    They are read, not mapped: the pages of a map count as memory of the process.

    Attributes:
        path: The file.
        offset: Where the first row begins, in bytes.
        dtype: Of the elements.
        shape: ``(n, d)``.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of_npy(cls, path: Path) -> FileRows:
        """Describe the matrix in a ``.npy`` file.

        Raises:
            InvalidRequestError: The file does not hold one matrix in row order.
        """
        try:
            mapped = np.load(path, allow_pickle=False, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InvalidRequestError(f"expected a .npy file in {path}: {error}") from error
        if not isinstance(mapped, np.memmap) or mapped.ndim != 2 or not mapped.flags.c_contiguous:
            raise InvalidRequestError(f"expected one matrix in row order in {path}")
        return cls(path, mapped.offset, mapped.dtype, mapped.shape)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows ``(m, d)``, neighbours in one go.

        Raises:
            InvalidRequestError: The file ends before a row does.
        """
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        runs = np.flatnonzero(np.diff(rows) != 1) + 1
        with self.path.open("rb", buffering=0) as file:
            for run in np.split(np.arange(len(rows)), runs):
                file.seek(self.offset + int(rows[run[0]]) * found[0].nbytes)
                wanted = found[run[0] : run[-1] + 1]
                if file.readinto(wanted.view(np.uint8).data) != wanted.nbytes:
                    raise InvalidRequestError(
                        f"expected {self.shape[0]} rows in {self.path}, but the file ends before; "
                        f"fetch it again"
                    )
        return found


@dataclass(slots=True)
class Conversion:
    """Fetches rows in a given order and number format, and notes what the format costs.

    Attributes:
        vectors: Where the rows come from.
        dtype: What they are stored as.
        worst_error: Largest distance of a stored row from what was given, relative to its length.
    """

    vectors: Rows
    dtype: np.dtype[Any]
    worst_error: float = field(default=0.0, init=False)

    def blocks(self, order: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Yield row numbers ``(m,)`` and the stored form of these rows ``(m, d)``, block by block.

        A value outside the format becomes infinite.
        """
        for start in range(0, len(order), BLOCK_ROWS):
            rows = order[start : start + BLOCK_ROWS]
            given = self.vectors[rows]
            with np.errstate(over="ignore"):
                stored = given.astype(self.dtype, copy=False)
            if stored.dtype != given.dtype:
                self._note(given, stored)
            yield rows, stored

    def _note(self, given: NDArray[Any], stored: NDArray[Any]) -> None:
        exact = given.astype(np.float32)
        error = np.linalg.norm(stored.astype(np.float32) - exact, axis=1)
        length = np.maximum(np.linalg.norm(exact, axis=1), np.finfo(np.float32).tiny)
        self.worst_error = max(self.worst_error, float((error / length).max()))
