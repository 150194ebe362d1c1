"""Mean and covariance of more vectors than fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.metrics import Gaussian


class Moments:
    """Takes vectors batch by batch; keeps their number, mean and scatter matrix, in float64.

    Batches are merged by the formula of Chan, Golub, LeVeque 1979 ("Updating formulae and a
    pairwise algorithm for computing sample variances"), which loses no digits where the mean is
    large beside the spread.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: NDArray[np.float64] = np.zeros(0)
        self._scatter: NDArray[np.float64] = np.zeros((0, 0))

    def add(self, vectors: NDArray[np.floating[Any]]) -> None:
        """Take the vectors ``(n, d)``, of the same d every time."""
        batch = vectors.astype(np.float64)
        mean = batch.mean(axis=0)
        centred = batch - mean
        scatter = centred.T @ centred
        if self._count:
            gap = mean - self._mean
            total = self._count + len(batch)
            scatter += self._scatter + np.outer(gap, gap) * (self._count * len(batch) / total)
            mean = self._mean + gap * (len(batch) / total)
        self._count += len(batch)
        self._mean, self._scatter = mean, scatter

    def gaussian(self) -> Gaussian:
        """Return the mean and the unbiased covariance.

        Raises:
            InvalidRequestError: There were fewer than two vectors.
        """
        if self._count < 2:
            raise InvalidRequestError(f"expected at least 2 images, found {self._count}")
        return Gaussian(self._mean, self._scatter / (self._count - 1))
