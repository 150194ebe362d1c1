import numpy as np
import pytest

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.moments import Moments


@pytest.mark.parametrize("size", [1, 7, 100])
def test_moments_are_those_of_all_vectors_together(size) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 4)) @ np.diag([1, 2, 3, 4])
    moments = Moments()
    for first in range(0, 100, size):
        moments.add(vectors[first : first + size])
    found = moments.gaussian()
    assert found.mean == pytest.approx(vectors.mean(axis=0))
    assert found.covariance == pytest.approx(np.cov(vectors, rowvar=False))


def test_a_large_mean_does_not_drown_the_spread() -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 2))
    moments = Moments()
    for batch in np.split(vectors + 1e7, 10):
        moments.add(batch)
    assert moments.gaussian().covariance == pytest.approx(np.cov(vectors, rowvar=False), rel=1e-6)


def test_sums_are_double_precision_whatever_comes_in() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    moments = Moments()
    for batch in np.split(vectors, 50):
        moments.add(batch)
    exact = np.cov(vectors.astype(np.float64), rowvar=False)
    assert moments.gaussian().covariance == pytest.approx(exact, rel=1e-12)


def test_one_vector_has_no_covariance() -> None:
    moments = Moments()
    moments.add(np.zeros((1, 3)))
    with pytest.raises(InvalidRequestError, match="at least 2 images, found 1"):
        moments.gaussian()
