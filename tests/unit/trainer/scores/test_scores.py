import numpy as np
import pytest
from scipy.linalg import sqrtm

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.features import Features
from gmem_trainer.scores.images import open_images
from gmem_trainer.scores.reference import open_reference
from gmem_trainer.scores.scores import score

FEATURES = 5


def extract(images: np.ndarray) -> Features:
    """Features, spatial features and probabilities of four classes, linear in the pixels."""
    flat = images.reshape(len(images), -1)[:, :16] / 255
    spatial = flat @ np.random.default_rng(1).normal(size=(16, 3))
    pooled = flat @ np.random.default_rng(0).normal(size=(16, FEATURES))
    logits = np.exp(4 * flat[:, :4])
    probabilities = logits / logits.sum(axis=1, keepdims=True)
    return Features(
        *(values.astype(np.float32) for values in (pooled, spatial, probabilities))
    )  # fmt: skip


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    generated = random.integers(40, 256, (61, 4, 4, 3), dtype=np.uint8)
    return generated, random.integers(0, 200, (47, 4, 4, 3), dtype=np.uint8)


def frechet_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
    gap = a.astype(np.float64).mean(axis=0) - b.astype(np.float64).mean(axis=0)
    return float(gap @ gap + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b))))


def covered_by_definition(points: np.ndarray, manifold: np.ndarray) -> float:
    def within(point: np.ndarray) -> bool:
        for centre in manifold:
            distances = sorted(np.linalg.norm(other - centre) for other in manifold)
            if np.linalg.norm(point - centre) <= distances[3]:  # the first is its own
                return True
        return False

    return float(np.mean([within(point) for point in points]))


@pytest.mark.parametrize("batch_size", [10, 100])
def test_all_scores_are_their_definitions(npz, sets, batch_size) -> None:
    samples, real = (npz(images, name=f"{i}.npz") for i, images in enumerate(sets))
    counts: list[int] = []
    found = score(
        open_images(samples), open_reference(real), extract, batch_size, counts.append
    )  # fmt: skip
    generated, expected = (extract(images) for images in sets)
    assert found.frechet == pytest.approx(frechet_by_definition(generated.pooled, expected.pooled))
    assert found.spatial_frechet == pytest.approx(
        frechet_by_definition(generated.spatial, expected.spatial)
    )
    assert found.precision == covered_by_definition(generated.pooled, expected.pooled)
    assert found.recall == covered_by_definition(expected.pooled, generated.pooled)
    assert 0 < found.precision < 1
    p = generated.probabilities.astype(np.float64)
    divergence = (p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()
    assert found.inception_score == pytest.approx(np.exp(divergence))
    assert (found.images, found.reference_images) == (61, 47)
    assert sum(counts) == 61 + 47


def test_given_statistics_go_before_the_images_beside_them(npz, sets) -> None:
    generated, real = sets
    everything = extract(np.concatenate(sets))
    moments = {
        "mu": everything.pooled.mean(axis=0),
        "sigma": np.cov(everything.pooled, rowvar=False),
    }
    samples = open_images(npz(generated, name="samples.npz"))
    found = score(samples, open_reference(npz(real, **moments)), extract, 10)
    expected = frechet_by_definition(extract(generated).pooled, everything.pooled)
    assert found.frechet == pytest.approx(expected, rel=1e-5)
    assert found.spatial_frechet == pytest.approx(
        frechet_by_definition(extract(generated).spatial, extract(real).spatial)
    )


def test_statistics_alone_give_no_precision_and_no_recall(npz, sets) -> None:
    samples = open_images(npz(sets[0], name="samples.npz"))
    statistics = npz(mu=np.zeros(FEATURES), sigma=np.eye(FEATURES))
    found = score(samples, open_reference(statistics), extract, 10)
    assert found.frechet > 0
    assert (found.spatial_frechet, found.precision, found.recall) == (None, None, None)
    assert found.inception_score is not None


def test_a_set_against_itself_is_perfect(npz, sets) -> None:
    path = npz(sets[0])
    found = score(open_images(path), open_reference(path), extract, 10)
    assert found.frechet == pytest.approx(0, abs=1e-9)
    assert (found.precision, found.recall) == (1.0, 1.0)


def test_statistics_of_other_features_are_refused(npz, sets) -> None:
    samples = open_images(npz(sets[0], name="samples.npz"))
    statistics = npz(mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(InvalidRequestError, match=r"statistics of 5 features.*2048.*--features"):
        score(samples, open_reference(statistics), extract, 10)
