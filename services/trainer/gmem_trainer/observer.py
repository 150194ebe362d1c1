"""Figures of images of any kind: what an evaluation sees of a user's own data.

Features are those of the snippet encoder, if there is one. A generator that is told the snippet is
measured in the space of its own memory, then, which flatters it in comparison with one that is not;
beside them stand figures of the pixels themselves, on thumbnails of at most 32 pixels a side.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.svm import SVC
from torch.nn import functional

from gmem_model.encoders import SnippetEncoder
from gmem_trainer.data import Images
from gmem_trainer.judge import COMPONENTS, Pixels, flat

THUMBNAIL = 32
_BATCH = 64


class Observer(Protocol):
    """Maps images ``(n, c, h, w)`` in [-1, 1] to the spaces in which sets of them are compared."""

    name: str
    """Of the classifier, or of what stands in its place."""

    def accuracy(self, pixels: Pixels, labels: NDArray[np.integer[Any]]) -> float | None:
        """Return the share recognised as their label; ``None`` if there are no classes."""
        ...

    def features(self, pixels: Pixels) -> Pixels:
        """Return what Fréchet distance, precision and recall are measured in, ``(n, d)``."""
        ...

    def components(self, pixels: Pixels) -> Pixels:
        """Return the leading principal components of the pixels, ``(n, k)``."""
        ...

    def vectors(self, pixels: Pixels) -> Pixels:
        """Return what nearest neighbours are looked for in, ``(n, k)``."""
        ...


class FolderObserver:
    """Looks at images through a snippet encoder and as thumbnails.

    Args:
        train: The real images to learn from.
        encoder: On ``device``; without one the components serve as features.
        device: Where images are embedded.
    """

    def __init__(
        self,
        train: Images,
        encoder: SnippetEncoder | None,
        device: torch.device | str = "cpu",
    ) -> None:
        thumbnails = self.vectors(train.pixels)
        count = min(COMPONENTS, *thumbnails.shape)
        self._pca = PCA(count, svd_solver="full").fit(thumbnails)
        self._encoder, self._device = encoder, device
        classes = len(np.unique(train.labels))
        self._svm = SVC(C=10).fit(thumbnails, train.labels) if classes > 1 else None
        self.name = "support vector machine, radial basis" if self._svm else "none: one class"

    def accuracy(self, pixels: Pixels, labels: NDArray[np.integer[Any]]) -> float | None:
        """Return the share recognised as their label by a classifier of thumbnails."""
        if self._svm is None:
            return None
        return float((self._svm.predict(self.vectors(pixels)) == labels).mean())

    def features(self, pixels: Pixels) -> Pixels:
        """Return the encoder's snippets, or the components."""
        if self._encoder is None:
            return self.components(pixels)
        some = torch.from_numpy(pixels.astype(np.float32)).split(_BATCH)
        embedded = [self._encoder.embed(images.to(self._device)).cpu() for images in some]
        return torch.cat(embedded).numpy()

    def components(self, pixels: Pixels) -> Pixels:
        """Return the leading principal components of the thumbnails."""
        return self._pca.transform(self.vectors(pixels))

    def vectors(self, pixels: Pixels) -> Pixels:
        """Return the thumbnails' pixels."""
        side = min(THUMBNAIL, pixels.shape[-1])
        small = functional.adaptive_avg_pool2d(torch.from_numpy(pixels), side)
        return flat(small.numpy())
