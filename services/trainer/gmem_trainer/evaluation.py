"""``evaluation.json``: how good, how varied and how new the images of a model are.

Validation figures may be looked at to choose something; test figures report. Each stands beside
the same figures of two references measured in the same way: the training images themselves (best
possible Fréchet distance, worst possible memorisation) and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_trainer.data import Dataset, Images
from gmem_trainer.judge import Pixels
from gmem_trainer.metrics import frechet_distance, memorisation, precision_recall
from gmem_trainer.observer import Observer

_DIGITS = 5

Generator = Callable[[NDArray[np.int32], int], NDArray[np.uint8]]
"""(labels, seed) to one image per label, uint8 ``(n, height, width, channels)``."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of a set of images.

    Attributes:
        class_accuracy: Share recognised as the class asked for; ``None`` without classes.
        frechet_features: Fréchet distance in the observer's feature space.
        frechet_pixels: Fréchet distance in the leading principal components of the pixels.
        precision: Share within the manifold of the real images.
        recall: Share of the real images within the manifold of these.
        nn_ratio, copy5: See `gmem_trainer.metrics.Memorisation`.
    """

    class_accuracy: float | None
    frechet_features: float
    frechet_pixels: float
    precision: float
    recall: float
    nn_ratio: float
    copy5: float


def evaluate(
    dataset: Dataset[Images], observer: Observer, generate: Generator, per_class: int, seed: int
) -> Any:
    """Measure a generator against the validation and the test images.

    Args:
        dataset: Its training images are what may have been memorised.
        observer: Knows the training images.
        generate: Makes the images; asked for other seeds for each part.
        per_class: Images generated of each class, for each part; without classes, of label -1.
        seed: Decides every generated image.

    Returns:
        JSON values: ``protocol``, ``classifier``, ``validation`` and ``test``.
    """
    classes = np.array([info.id for info in dataset.classes] or [-1], np.int32)
    labels = np.repeat(classes, per_class)
    parts = {"validation": dataset.validation, "test": dataset.test}
    report: dict[str, Any] = {
        "protocol": {
            "generated_images": len(labels),
            "train_images": len(dataset.train),
            "seed": seed,
        }
        | {f"{part}_images": len(real) for part, real in parts.items()},
        "classifier": {
            "name": observer.name,
            **{f"{p}_accuracy": observer.accuracy(r.pixels, r.labels) for p, r in parts.items()},
        },
    }
    train = dataset.train
    noise = np.random.default_rng(seed).uniform(-1, 1, (len(labels), *train.pixels.shape[1:]))
    for offset, (part, real) in enumerate(parts.items()):
        pixels = unit_pixels(generate(labels, 2 * seed + offset))
        report[part] = asdict(measure(observer, train, real, pixels, labels)) | {
            "references": {
                "train": asdict(measure(observer, train, real, train.pixels, train.labels)),
                "noise": asdict(measure(observer, train, real, noise, labels)),
            }
        }
    return _rounded(report)


def measure(
    observer: Observer, train: Images, real: Images, pixels: Pixels, labels: NDArray[np.int32]
) -> Figures:
    """Compare images ``(n, c, h, w)`` in [-1, 1], meant to show ``labels``, with real ones."""
    features, real_features = observer.features(pixels), observer.features(real.pixels)
    # Both manifolds need as many points, or the denser one covers less.
    count = min(len(features), len(real_features))
    precision, recall = precision_recall(_spread(real_features, count), _spread(features, count))
    new = memorisation(*(observer.vectors(p) for p in (pixels, train.pixels, real.pixels)))
    components = [observer.components(p) for p in (pixels, real.pixels)]
    return Figures(
        class_accuracy=observer.accuracy(pixels, labels),
        frechet_features=frechet_distance(features, real_features),
        frechet_pixels=frechet_distance(*components),
        precision=precision,
        recall=recall,
        nn_ratio=new.nn_ratio,
        copy5=new.copy5,
    )


def _spread(vectors: Pixels, count: int) -> Pixels:
    """Return ``count`` of the vectors, evenly spread over all of them."""
    return vectors[np.linspace(0, len(vectors) - 1, count).astype(np.int64)]


def unit_pixels(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pictures uint8 ``(n, h, w, c)`` as float32 ``(n, c, h, w)`` in [-1, 1]."""
    return (pictures.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value
