import numpy as np
import pytest
import torch

from gmem_model.encoders import SnippetEncoder
from gmem_model.encoders.convnet import ConvNet
from gmem_trainer.data import Images
from gmem_trainer.evaluation import evaluate
from gmem_trainer.observer import FolderObserver
from tests.support.folders import small_folder


@pytest.fixture
def dataset(tmp_path):
    return small_folder(tmp_path / "photos").sample(1000, seed=0)


@pytest.fixture
def encoder() -> SnippetEncoder:
    torch.manual_seed(0)
    return SnippetEncoder.of(ConvNet(3, 16, width=4, dimension=8), "tiny")


def test_features_are_the_encoders_snippets(dataset, encoder) -> None:
    observer = FolderObserver(dataset.train, encoder)
    pixels = dataset.test.pixels
    expected = encoder.embed(torch.from_numpy(pixels)).numpy()
    assert np.allclose(observer.features(pixels), expected, atol=1e-6)
    alone = FolderObserver(dataset.train, None)
    assert np.array_equal(alone.features(pixels), alone.components(pixels))


def test_classes_that_look_different_are_told_apart(dataset) -> None:
    observer = FolderObserver(dataset.train, None)
    assert observer.accuracy(dataset.test.pixels, dataset.test.labels) > 0.9
    assert observer.accuracy(dataset.test.pixels, 1 - dataset.test.labels) < 0.1


def test_without_classes_there_is_no_accuracy(dataset) -> None:
    one = Images(dataset.train.pixels, np.full(42, -1, np.int32), dataset.train.source_ids)
    observer = FolderObserver(one, None)
    assert observer.accuracy(dataset.test.pixels, dataset.test.labels) is None
    assert "one class" in observer.name


def test_large_images_are_compared_as_thumbnails() -> None:
    random = np.random.default_rng(0)
    pixels = random.uniform(-1, 1, (6, 3, 128, 128)).astype(np.float32)
    images = Images(pixels, np.zeros(6, np.int32), np.arange(6))
    vectors = FolderObserver(images, None).vectors(pixels)
    assert vectors.shape == (6, 3 * 32 * 32)
    assert vectors[0, 0] == pytest.approx(pixels[0, 0, :4, :4].mean(), abs=1e-6)


def test_an_evaluation_finds_copies_of_a_users_images(dataset, encoder) -> None:
    def copies(labels: np.ndarray, seed: int) -> np.ndarray:
        rows = np.random.default_rng(seed).integers(0, len(dataset.train), len(labels))
        return np.round((dataset.train.pixels[rows].transpose(0, 2, 3, 1) + 1) * 127.5).astype(
            np.uint8
        )

    observer = FolderObserver(dataset.train, encoder)
    test = evaluate(dataset, observer, copies, per_class=10, seed=0)["test"]
    assert test["nn_ratio"] < 0.1
    assert test["copy5"] == 1.0
    assert test["frechet_pixels"] < test["references"]["noise"]["frechet_pixels"]
