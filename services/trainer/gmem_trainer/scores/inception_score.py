"""The Inception Score of more images than fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

SPLIT = 5000
"""ADM averages the scores of so many images each; the last split takes what is left."""


class InceptionScore:
    """exp(mean of KL(p(y|x) || p(y))), averaged over splits.

    Source: Salimans et al. 2016, "Improved techniques for training GANs" (arXiv 1606.03498).
    """

    def __init__(self, split: int = SPLIT) -> None:
        self._split = split
        self._waiting: list[NDArray[np.float64]] = []
        self._scores: list[float] = []

    def add(self, probabilities: NDArray[np.floating[Any]]) -> None:
        """Take the class probabilities ``(n, classes)`` of the next images."""
        self._waiting.append(probabilities.astype(np.float64))
        while sum(map(len, self._waiting)) >= self._split:
            waiting = np.concatenate(self._waiting)
            self._scores.append(_score(waiting[: self._split]))
            self._waiting = [waiting[self._split :]]

    def value(self) -> float:
        """Return the score of all images so far."""
        rest = np.concatenate(self._waiting)
        return float(np.mean([*self._scores, *([_score(rest)] if len(rest) else [])]))


def _score(probabilities: NDArray[np.float64]) -> float:
    mean = probabilities.mean(axis=0)
    divergence = (xlogy(probabilities, probabilities) - xlogy(probabilities, mean)).sum(axis=1)
    return float(np.exp(divergence.mean()))
