import numpy as np
import pytest

from gmem_trainer.scores.inception_score import InceptionScore


def by_definition(probabilities: np.ndarray, split: int) -> float:
    """The formula once more, image by image."""
    scores = []
    for first in range(0, len(probabilities), split):
        part = probabilities[first : first + split]
        marginal = sum(part) / len(part)
        divergences = [
            sum(p * np.log(p / q) for p, q in zip(image, marginal, strict=True) if p > 0)
            for image in part
        ]
        scores.append(np.exp(np.mean(divergences)))
    return float(np.mean(scores))


@pytest.mark.parametrize("batch", [1, 13, 50])
def test_the_score_is_its_definition_however_the_images_come(batch) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(6, 0.3), size=50)
    score = InceptionScore(split=20)
    for first in range(0, 50, batch):
        score.add(probabilities[first : first + batch])
    assert score.value() == pytest.approx(by_definition(probabilities, 20))


def test_certain_and_varied_predictions_score_the_number_of_classes() -> None:
    score = InceptionScore()
    score.add(np.eye(10)[np.arange(100) % 10])
    assert score.value() == pytest.approx(10)


def test_images_that_all_look_alike_score_one() -> None:
    score = InceptionScore()
    score.add(np.tile([0.2, 0.8], (30, 1)))
    assert score.value() == pytest.approx(1)
