import numpy as np
import pytest

from gmem_trainer.data import digits
from gmem_trainer.judge import COMPONENTS, FEATURES, Judge


@pytest.fixture(scope="module")
def dataset():
    return digits(0)


@pytest.fixture(scope="module")
def judge(dataset) -> Judge:
    return Judge(dataset.train, seed=0)


def test_the_judge_knows_digits_it_has_not_seen(judge, dataset) -> None:
    real = dataset.validation
    assert judge.accuracy(real.pixels, real.labels) > 0.96


def test_noise_is_recognised_only_by_chance(judge, dataset) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (500, 1, 8, 8))
    labels = np.arange(500) % 10
    assert judge.accuracy(noise, labels) < 0.2


def test_features_separate_the_classes(judge, dataset) -> None:
    real = dataset.validation
    features = judge.features(real.pixels)
    assert features.shape == (len(real), FEATURES)
    centres = np.stack([features[real.labels == c].mean(axis=0) for c in range(10)])
    nearest = np.linalg.norm(features[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == real.labels).mean() > 0.9


def test_components_are_centred_on_the_training_images(judge, dataset) -> None:
    components = judge.components(dataset.train.pixels)
    assert components.shape == (len(dataset.train), COMPONENTS)
    assert components.mean(axis=0) == pytest.approx(np.zeros(COMPONENTS), abs=1e-4)
