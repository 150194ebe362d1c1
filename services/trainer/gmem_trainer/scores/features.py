"""What the scores see in images: one object per feature space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.encoders.foreign import import_dinov2
from gmem_shared.errors import InvalidRequestError
from gmem_trainer.data import digits
from gmem_trainer.judge import Judge
from gmem_trainer.presets import preset
from gmem_trainer.scores.inception import SIDE, load_inception
from gmem_trainer.scores.resizing import resize

FeatureSpace = Literal["inception", "dinov2", "digits", "pixels"]


@dataclass(frozen=True, slots=True)
class Features:
    """Of n images.

    Attributes:
        pooled: float32 ``(n, d)``: Fréchet distance, precision and recall.
        spatial: float32 ``(n, s)``: the spatial Fréchet distance.
        probabilities: float32 ``(n, classes)``: the Inception Score.
    """

    pooled: NDArray[np.float32]
    spatial: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None


class Extractor(Protocol):
    """Looks at images."""

    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Return the features of images, uint8 ``(n, height, width, 3)``."""
        ...


def open_extractor(space: FeatureSpace, weights: Path | None, device: str) -> Extractor:
    """Return the extractor of a feature space.

    Args:
        space: ``inception`` and ``dinov2`` need weights, the others none.
        weights: File with the network's weights.
        device: Where a network computes.

    Raises:
        InvalidRequestError: The weights are missing, superfluous or of another network.
    """
    networks: dict[FeatureSpace, Callable[[Path, str], Extractor]] = {
        "inception": InceptionExtractor,
        "dinov2": DinoExtractor,
    }
    if (space in networks) != (weights is not None):
        need = "a file with --weights" if space in networks else "no --weights"
        raise InvalidRequestError(f"expected {need} for --features {space}, found {weights}")
    if weights is not None:
        return networks[space](weights, device)
    return DigitsExtractor() if space == "digits" else pixels


class InceptionExtractor:
    """Inception-v3 on images resized within the network, as ADM's evaluator looks at them."""

    def __init__(self, weights: Path, device: str) -> None:
        self._network = load_inception(weights).to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Return pooled and spatial features and class probabilities."""
        values = resize(_channels_first(images, self._device), SIDE)
        found = self._network((values - 128) / 128)
        return Features(
            _array(found.pooled), _array(found.spatial), _array(found.logits.softmax(dim=1))
        )


class DinoExtractor:
    """DINOv2's CLS token, for the Fréchet distance of Stein et al. 2023 (arXiv 2306.04675)."""

    def __init__(self, weights: Path, device: str) -> None:
        self._network = import_dinov2(weights).to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Return the CLS tokens."""
        values = _channels_first(images, self._device) / 127.5 - 1
        return Features(_array(self._network.features(values).snippets))


class DigitsExtractor:
    """The classifier that judges the digits preset; see `gmem_trainer.judge`."""

    def __init__(self) -> None:
        self._judge = Judge(digits(preset("digits").split_seed).train, seed=0)

    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Return the last hidden layer and the class probabilities.

        Raises:
            InvalidRequestError: The images are not those of digits.
        """
        if images.shape[1:] != (8, 8, 3):
            raise InvalidRequestError(f"expected 8x8 images of digits, found {images.shape[1:3]}")
        grey = images[..., :1].transpose(0, 3, 1, 2) / 127.5 - 1
        return Features(
            self._judge.features(grey).astype(np.float32),
            probabilities=self._judge.probabilities(grey).astype(np.float32),
        )


def pixels(images: NDArray[np.uint8]) -> Features:
    """Return the pixels themselves, in [0, 1]; for small images only."""
    return Features((images.reshape(len(images), -1) / 255).astype(np.float32))


def _channels_first(images: NDArray[np.uint8], device: str) -> Tensor:
    return torch.tensor(images).to(device).permute(0, 3, 1, 2).float()


def _array(values: Tensor) -> NDArray[Any]:
    return values.float().cpu().numpy()
