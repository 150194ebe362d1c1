import numpy as np
import pytest

from gmem_trainer.metrics import (
    frechet_distance,
    memorisation,
    nearest_distances,
    precision_recall,
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def with_moments(points: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Map points to ones with exactly this sample mean and covariance."""
    centred = points - points.mean(axis=0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_a_set_to_itself_is_zero(random) -> None:
    points = random.normal(size=(200, 5))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_the_closed_form_for_commuting_covariances(random) -> None:
    a = with_moments(random.normal(size=(50, 3)), np.array([1.0, 2, 3]), np.diag([1.0, 4, 9]))
    b = with_moments(random.normal(size=(70, 3)), np.array([1.0, 0, 3]), np.diag([4.0, 4, 1]))
    # |mean difference|^2 + sum (sigma_a - sigma_b)^2
    assert frechet_distance(a, b) == pytest.approx(4 + 1 + 0 + 4)


def test_frechet_distance_follows_the_matrix_square_root_for_any_covariances(random) -> None:
    from scipy.linalg import sqrtm

    mixing = random.normal(size=(2, 4, 4))
    a, b = (random.normal(size=(100, 4)) @ matrix for matrix in mixing)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(
        cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b))
    )
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)


def test_frechet_distance_survives_constant_columns(random) -> None:
    points = np.column_stack([random.normal(size=100), np.zeros(100)])
    assert frechet_distance(points, points + np.array([1.0, 0.0])) == pytest.approx(1.0)


def test_identical_sets_have_full_precision_and_recall(random) -> None:
    points = random.normal(size=(60, 4))
    assert precision_recall(points, points) == (1.0, 1.0)


def test_distant_sets_have_neither_precision_nor_recall(random) -> None:
    points = random.normal(size=(60, 4))
    assert precision_recall(points, points + 1000) == (0.0, 0.0)


def test_a_collapsed_generator_has_precision_without_recall(random) -> None:
    real = random.normal(size=(500, 2))
    collapsed = random.normal(scale=0.01, size=(500, 2))
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.9
    assert recall < 0.1


def test_a_generator_that_covers_too_much_has_recall_without_precision(random) -> None:
    real = random.normal(scale=0.01, size=(500, 2))
    wide = random.normal(size=(500, 2))
    precision, recall = precision_recall(real, wide)
    assert precision < 0.1
    assert recall > 0.9


def test_manifold_radius_is_the_distance_to_the_kth_neighbour() -> None:
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    # Radii for k = 1 are 1, 1, 2, 4: the manifold is [-1, 2] u [1, 5] u [3, 11].
    points = np.array([[-1.0], [-1.1], [5.0], [11.0], [11.1]])
    precision, _ = precision_recall(line, points, neighbours=1)
    assert precision == 3 / 5


def test_nearest_distance_is_euclidean() -> None:
    others = np.array([[0.0, 0.0], [10.0, 0.0]])
    assert nearest_distances(np.array([[3.0, 4.0], [10.0, 2.0]]), others).tolist() == [5.0, 2.0]


def test_copies_of_training_images_are_recognised_as_memorised(random) -> None:
    train, held_out = random.normal(size=(2, 300, 8))
    copied = memorisation(train[:100], train, held_out)
    assert copied.nn_ratio == 0.0
    assert copied.copy5 == 1.0


def test_held_out_images_are_the_measure_of_novelty(random) -> None:
    train, held_out = random.normal(size=(2, 400, 8))
    natural = memorisation(held_out, train, held_out)
    assert natural.nn_ratio == 1.0
    assert natural.copy5 == pytest.approx(0.05, abs=0.005)
