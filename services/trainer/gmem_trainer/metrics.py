"""Distances between sets of images: quality, coverage and memorisation.

No figure says enough alone: the Fréchet distance improves when a generator copies its training
images, recall does not see it either, and only the memorisation figures do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Vectors = NDArray[np.floating[Any]]

COPY_QUANTILE = 0.05


def frechet_distance(a: Vectors, b: Vectors) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to ``(n, d)`` and ``(m, d)``.

    Source: Heusel et al. 2017, equation 6. tr((A B)^1/2) is the sum of the square roots of the
    eigenvalues of the symmetric A^1/2 B A^1/2.
    """
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, basis = np.linalg.eigh(np.atleast_2d(covariance_a))
    root = (basis * np.sqrt(np.maximum(values, 0))) @ basis.T
    product = root @ np.atleast_2d(covariance_b) @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0)).sum()
    mean_term = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(mean_term + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def precision_recall(real: Vectors, generated: Vectors, neighbours: int = 3) -> tuple[float, float]:
    """Return how much of each set lies within the other's k-nearest-neighbour manifold.

    Source: Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing
    generative models", equations 1 and 2.
    """
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(points: Vectors, manifold: Vectors, neighbours: int) -> float:
    # Column 0 of the sorted distances is the point itself.
    radii = np.sort(cdist(manifold, manifold), axis=1)[:, neighbours]
    return float((cdist(points, manifold) <= radii).any(axis=1).mean())


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
