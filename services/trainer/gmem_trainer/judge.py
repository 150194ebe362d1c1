"""An opinion on images that owes nothing to the generator or to the snippet encoder.

Two classifiers learn the real training images with their labels: a support vector machine names
the class of an image, and the last hidden layer of a multilayer perceptron gives the space in which
Fréchet distance, precision and recall are measured. Neither shares an architecture, a weight or a
training signal with the encoder, which is convolutional and sees no label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from gmem_trainer.data import Images

FEATURES = 32
COMPONENTS = 20

Pixels = NDArray[np.floating[Any]]


class Judge:
    """Classifies images and maps them to the spaces in which sets of images are compared.

    Args:
        train: The real images to learn from.
        seed: Of the perceptron's initial weights.
    """

    name = "support vector machine, radial basis"

    def __init__(self, train: Images, seed: int) -> None:
        pixels = flat(train.pixels)
        self._svm = SVC(C=10).fit(pixels, train.labels)
        self._perceptron = MLPClassifier((128, FEATURES), max_iter=1000, random_state=seed % 2**32)
        self._perceptron.fit(pixels, train.labels)
        self._pca = PCA(COMPONENTS, svd_solver="full").fit(pixels)

    def accuracy(self, pixels: Pixels, labels: NDArray[np.integer[Any]]) -> float:
        """Return the share of images ``(n, c, h, w)`` recognised as their label."""
        return float((self._svm.predict(flat(pixels)) == labels).mean())

    def features(self, pixels: Pixels) -> Pixels:
        """Return the perceptron's last hidden layer, ``(n, FEATURES)``."""
        hidden = flat(pixels)
        layers = zip(self._perceptron.coefs_, self._perceptron.intercepts_, strict=True)
        for weights, bias in list(layers)[:-1]:
            hidden = np.maximum(hidden @ weights + bias, 0)
        return hidden

    def probabilities(self, pixels: Pixels) -> Pixels:
        """Return the perceptron's belief in each class, ``(n, classes)``."""
        return self._perceptron.predict_proba(flat(pixels))

    def vectors(self, pixels: Pixels) -> Pixels:
        """Return the pixels themselves, ``(n, c h w)``."""
        return flat(pixels)

    def components(self, pixels: Pixels) -> Pixels:
        """Return the leading principal components of the pixels, ``(n, COMPONENTS)``."""
        return self._pca.transform(flat(pixels))


def flat(pixels: Pixels) -> Pixels:
    """Return images ``(n, c, h, w)`` as vectors ``(n, c h w)``."""
    return pixels.reshape(len(pixels), -1)
