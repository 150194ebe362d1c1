"""A bank while it is built or edited: full, or compressed to a few numbers per snippet.

GMem v2 (arXiv 2412.08781) stores a bank of N snippets as their coordinates in the d directions of
largest variance: 12 times smaller at d = 64 of 768. All of it is plain linear algebra on arrays
that may be memory maps: rows are read in blocks and never copied as a whole.

Shape suffixes: N snippets, F width of a snippet, D coefficients per snippet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import OutOfRangeError, UnknownRowError
from gmem_shared.mixing import normalize

Floats = NDArray[np.floating[Any]]
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

BLOCK_ROWS = 8192

_NEGLIGIBLE = 1e-6
"""A direction whose singular value is below this share of the largest one carries rounding only."""


@dataclass(slots=True)
class FullBank:
    """Snippets as they are, float32 ``(N, F)``."""

    snippets: Vectors

    def __len__(self) -> int:
        return len(self.snippets)

    def __getitem__(self, rows: Rows) -> Vectors:
        return self.snippets[check_rows(rows, len(self))]

    def interpolated(self, i: int, j: int, alpha: float) -> Vectors:
        """Return ``alpha`` of snippet i plus the rest of snippet j, not normalised."""
        first, second = self[np.array([i, j])]
        return first * np.float32(alpha) + second * np.float32(1 - alpha)

    def append(self, snippet_F: Floats) -> Vectors:
        """Add a snippet and return it as the bank holds it."""
        self.snippets = np.vstack([self.snippets, snippet_F.astype(np.float32)])
        return self.snippets[-1]


@dataclass(slots=True)
class CompressedBank:
    """Snippets as coefficients: snippet i is ``coefficients[i] @ basis.T + mean``; all float32.

    Attributes:
        coefficients: ``(N, D)``, left singular vectors times sqrt(scales).
        basis: ``(F, D)``, right singular vectors times sqrt(scales).
        scales: ``(D,)``, the largest singular values of the centred bank, descending.
        mean: ``(F,)``, the mean snippet.
    """

    coefficients: Vectors
    basis: Vectors
    scales: Vectors
    mean: Vectors

    def __len__(self) -> int:
        return len(self.coefficients)

    def __getitem__(self, rows: Rows) -> Vectors:
        return self.decode(self.coefficients[check_rows(rows, len(self))])

    def decode(self, coefficients_ND: Vectors) -> Vectors:
        """Return the snippets ``(…, F)`` of coefficients ``(…, D)``."""
        return coefficients_ND @ self.basis.T + self.mean

    def encode(self, snippets_NF: Floats) -> Vectors:
        """Return the coefficients ``(…, D)`` of the nearest snippets the basis can express."""
        projected = (snippets_NF.astype(np.float32) - self.mean) @ self.basis
        used = self.scales > _NEGLIGIBLE * self.scales.max(initial=0)
        return np.where(used, projected / np.where(used, self.scales, 1), 0).astype(np.float32)

    def interpolated(self, i: int, j: int, alpha: float) -> Vectors:
        """Return ``alpha`` of snippet i plus the rest of snippet j, not normalised."""
        return self.decode(self.mixed_coefficients(i, j, alpha))

    def mixed_coefficients(self, i: int, j: int, alpha: float) -> Vectors:
        """Return the coefficients ``(D,)`` of `interpolated`."""
        first, second = self.coefficients[check_rows(np.array([i, j]), len(self))]
        return first * np.float32(alpha) + second * np.float32(1 - alpha)

    def append(self, snippet_F: Floats) -> Vectors:
        """Add a snippet and return it as the bank holds it: projected on the basis."""
        return self.append_coefficients(self.encode(snippet_F))

    def append_coefficients(self, coefficients_D: Vectors) -> Vectors:
        """Add the snippet of these coefficients and return it."""
        self.coefficients = np.vstack([self.coefficients, coefficients_D])
        return self.decode(coefficients_D)


def check_rows(rows: Rows, count: int) -> Rows:
    """Return the rows; raises `UnknownRowError` unless each is in 0 … ``count`` - 1."""
    outside = rows[(rows < 0) | (rows >= count)]
    if outside.size:
        raise UnknownRowError(f"expected rows 0 … {count - 1}, found {outside.tolist()[:5]}")
    return rows


def compress(snippets_NF: Floats, dimension: int) -> CompressedBank:
    """Return the best approximation of a bank with ``dimension`` numbers per snippet.

    Reads the snippets three times in blocks; needs memory for the N x D coefficients only. The
    singular vectors come from the F x F covariance in float64, which at these sizes is as exact as
    float32 snippets are.

    Raises:
        OutOfRangeError: There are fewer snippets or components than ``dimension``.
    """
    rows, width = snippets_NF.shape
    if not 1 <= dimension <= min(rows, width):
        raise OutOfRangeError(
            f"expected 1 … {min(rows, width)} dimensions for {rows} snippets of {width}, "
            f"found {dimension}"
        )
    mean = np.zeros(width)
    for block in _blocks(snippets_NF):
        mean += block.sum(axis=0) / rows
    covariance = np.zeros((width, width))
    for block in _blocks(snippets_NF):
        centred = block - mean
        covariance += centred.T @ centred
    squares, vectors = np.linalg.eigh(covariance)
    scales = np.sqrt(np.maximum(squares[::-1][:dimension], 0))
    directions = vectors[:, ::-1][:, :dimension]
    used = scales > _NEGLIGIBLE * scales[0]
    inverse = np.where(used, 1 / np.sqrt(np.where(used, scales, 1)), 0)
    coefficients = np.empty((rows, dimension), np.float32)
    start = 0
    for block in _blocks(snippets_NF):
        coefficients[start : start + len(block)] = (block - mean) @ directions * inverse
        start += len(block)
    return CompressedBank(
        coefficients=coefficients,
        basis=(directions * np.sqrt(scales)).astype(np.float32),
        scales=scales.astype(np.float32),
        mean=mean.astype(np.float32),
    )


def nearest(features_NF: Floats, snippets: Floats, *, skip_self: bool = False) -> Rows:
    """Return for each feature the row of the snippet ``(K, F)`` it is nearest to, by cosine.

    Args:
        features_NF: Of any length.
        snippets: The candidates.
        skip_self: Both are the same: feature i is not to be found as its own neighbour.
    """
    unit = normalize(snippets)
    found = np.empty(len(features_NF), np.int64)
    done = 0
    for block in _blocks(features_NF, dtype=np.float32):
        best = np.full(len(block), -np.inf, np.float32)
        rows = np.zeros(len(block), np.int64)
        for start in range(0, len(unit), BLOCK_ROWS):
            similarity = block @ unit[start : start + BLOCK_ROWS].T
            if skip_self and start == done:
                np.fill_diagonal(similarity, -np.inf)
            candidate = similarity.argmax(axis=1)
            score = similarity[np.arange(len(block)), candidate]
            better = score > best
            rows[better], best[better] = candidate[better] + start, score[better]
        found[done : done + len(block)] = rows
        done += len(block)
    return found


def usage(features_NF: Floats, snippets: Floats) -> NDArray[np.int64]:
    """Count for each of K snippets ``(K, F)`` the features it is nearest to, by cosine.

    With the features of all training images this is the frequency at which GMem v1 draws a snippet.
    """
    return np.bincount(nearest(features_NF, snippets), minlength=len(snippets))


def most_used(counts: NDArray[np.int64], k: int) -> Rows:
    """Return the rows of the ``k`` largest counts, ascending; of equal ones the first rows."""
    return np.sort(np.argsort(-counts, kind="stable")[:k])


def _blocks(
    snippets_NF: Floats, dtype: type[np.floating[Any]] = np.float64
) -> Iterator[NDArray[Any]]:
    for start in range(0, len(snippets_NF), BLOCK_ROWS):
        yield snippets_NF[start : start + BLOCK_ROWS].astype(dtype)
