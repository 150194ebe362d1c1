import numpy as np
import pytest

from gmem_trainer.data import digits
from gmem_trainer.evaluation import evaluate, unit_pixels
from gmem_trainer.judge import Judge


@pytest.fixture(scope="module")
def dataset():
    return digits(0)


@pytest.fixture(scope="module")
def judge(dataset) -> Judge:
    return Judge(dataset.train, seed=0)


def copies_of(images):
    """A generator that answers with real images of the class, as 8-bit pictures."""

    def generate(labels: np.ndarray, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        rows = [random.choice(np.flatnonzero(images.labels == label)) for label in labels]
        return np.round((images.pixels[rows].transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)

    return generate


def test_a_generator_that_copies_is_found_out_by_the_memorisation_figures(dataset, judge) -> None:
    test = evaluate(dataset, judge, copies_of(dataset.train), per_class=40, seed=0)["test"]
    assert test["class_accuracy"] > 0.99
    assert test["recall"] > 0.8
    assert test["nn_ratio"] < 0.05
    assert test["copy5"] == 1.0


def test_new_real_images_pass_on_every_figure(dataset, judge) -> None:
    report = evaluate(dataset, judge, copies_of(dataset.test), per_class=40, seed=0)
    figures, floor = report["test"], report["test"]["references"]["train"]
    assert figures["class_accuracy"] > 0.95
    assert figures["frechet_features"] < 2 * floor["frechet_features"]
    assert figures["nn_ratio"] == pytest.approx(1.0, abs=0.05)
    assert figures["copy5"] < 0.1


def test_noise_fails_on_every_figure_of_quality(dataset, judge) -> None:
    report = evaluate(dataset, judge, copies_of(dataset.train), per_class=40, seed=0)
    noise = report["test"]["references"]["noise"]
    assert noise["class_accuracy"] < 0.3
    assert noise["frechet_pixels"] > 5
    assert noise["precision"] < 0.1
    assert noise["copy5"] == 0.0


def test_each_part_is_measured_against_its_own_images_with_its_own_seed(dataset, judge) -> None:
    seeds: list[int] = []

    def generate(labels: np.ndarray, seed: int) -> np.ndarray:
        seeds.append(seed)
        return copies_of(dataset.train)(labels, seed)

    report = evaluate(dataset, judge, generate, per_class=20, seed=3)
    assert len(set(seeds)) == 2
    assert report["protocol"]["test_images"] == len(dataset.test)
    references = [report[part]["references"]["train"] for part in ("validation", "test")]
    assert references[0]["frechet_features"] != references[1]["frechet_features"]


def test_the_judges_own_accuracy_is_reported(dataset, judge) -> None:
    report = evaluate(dataset, judge, copies_of(dataset.train), per_class=20, seed=0)
    expected = judge.accuracy(dataset.test.pixels, dataset.test.labels)
    assert report["classifier"]["test_accuracy"] == pytest.approx(expected, abs=1e-5)


def test_pictures_return_to_the_range_of_the_pixels() -> None:
    pictures = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    assert unit_pixels(pictures).ravel().tolist() == [-1.0, 1.0]
