"""Distances between sets of images: quality, coverage and memorisation.

No figure says enough alone: the Fréchet distance improves when a generator copies its training
images, recall does not see it either, and only the memorisation figures do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Vectors = NDArray[np.floating[Any]]

COPY_QUANTILE = 0.05

_BLOCK_VALUES = 2**24
"""Distances held at once: 128 MiB."""

_ROUNDING = 1e-13


@dataclass(frozen=True, slots=True)
class Gaussian:
    """What the Fréchet distance keeps of a set of vectors.

    Attributes:
        mean: float64 ``(d,)``.
        covariance: float64 ``(d, d)``.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def fit(cls, vectors: Vectors) -> Gaussian:
        """Fit vectors ``(n, d)``."""
        return cls(vectors.mean(axis=0), np.atleast_2d(np.cov(vectors, rowvar=False)))

    def distance(self, other: Gaussian) -> float:
        """Return the squared Fréchet distance.

        Source: Heusel et al. 2017, equation 6. tr((A B)^1/2) is the sum of the square roots of the
        eigenvalues of the symmetric A^1/2 B A^1/2.
        """
        values, basis = np.linalg.eigh(self.covariance)
        root = (basis * np.sqrt(np.maximum(values, 0))) @ basis.T
        product = root @ other.covariance @ root
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0)).sum()
        mean_term = np.square(self.mean - other.mean).sum()
        traces = np.trace(self.covariance) + np.trace(other.covariance)
        # Rounding may leave a distance of nothing a little below zero.
        return max(0.0, float(mean_term + traces - 2 * cross))


def frechet_distance(a: Vectors, b: Vectors) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to ``(n, d)`` and ``(m, d)``."""
    return Gaussian.fit(a).distance(Gaussian.fit(b))


def precision_recall(real: Vectors, generated: Vectors, neighbours: int = 3) -> tuple[float, float]:
    """Return how much of each set lies within the other's k-nearest-neighbour manifold.

    Source: Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing
    generative models", equations 1 and 2. Memory grows with the larger set, not with its square.
    """
    # Distances do not change; near the origin they keep more digits.
    centre = real.mean(axis=0, dtype=np.float64)
    real, generated = real - centre, generated - centre
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(points: Vectors, manifold: Vectors, neighbours: int) -> float:
    # The nearest point of the manifold to one of its own is the point itself.
    radii = np.concatenate(
        [
            np.partition(squared, neighbours, axis=1)[:, neighbours]
            for squared in _squared_distances(manifold, manifold)
        ]
    )
    # A copy of a point whose neighbours are copies too lies at distance 0 = radius, up to rounding.
    radii += _ROUNDING * np.square(manifold).sum(axis=1).max()
    inside = sum(
        int((squared <= radii).any(axis=1).sum())
        for squared in _squared_distances(points, manifold)
    )
    return inside / len(points)


def _squared_distances(points: Vectors, others: Vectors) -> Iterator[NDArray[np.float64]]:
    """Yield the squared distances of a few points at a time to all others, ``(block, m)``."""
    lengths = np.square(others).sum(axis=1)
    block = max(1, _BLOCK_VALUES // len(others))
    for first in range(0, len(points), block):
        some = points[first : first + block]
        squared = np.square(some).sum(axis=1)[:, None] + lengths - 2 * some @ others.T
        yield np.maximum(squared, 0)


def nearest_distances(points: Vectors, others: Vectors) -> NDArray[np.float64]:
    """Return each point's Euclidean distance to its nearest neighbour in ``others``."""
    nearest: NDArray[np.float64] = cdist(points, others).min(axis=1)
    return nearest


@dataclass(frozen=True, slots=True)
class Memorisation:
    """How near images lie to the training images, compared with real images never trained on.

    Attributes:
        nn_ratio: Median distance to the nearest training image, over the same of the held-out
            images: 1 as novel as a new real image, 0 a copy.
        copy5: Share nearer to a training image than 95 % of the held-out images are; 0.05 is
            natural.
    """

    nn_ratio: float
    copy5: float


def memorisation(images: Vectors, train: Vectors, held_out: Vectors) -> Memorisation:
    """Compare flattened images ``(n, d)`` with the training set, by the held-out set's measure."""
    natural = nearest_distances(held_out, train)
    found = nearest_distances(images, train)
    return Memorisation(
        nn_ratio=float(np.median(found) / np.median(natural)),
        copy5=float((found < np.quantile(natural, COPY_QUANTILE)).mean()),
    )
