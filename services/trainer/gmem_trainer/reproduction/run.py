"""One training run, looked at again and again on its way."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gmem_model.decoding import Decoder
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_model.samplers import plan
from gmem_shared.model_config import Interpolant, PixelSpace
from gmem_trainer.contrastive import EncoderRecipe, train_encoder
from gmem_trainer.data import Dataset, Images
from gmem_trainer.evaluation import Figures, measure, unit_pixels
from gmem_trainer.generation import BatchSampler
from gmem_trainer.judge import Judge
from gmem_trainer.presets import digits as digits_preset
from gmem_trainer.reproduction.arms import Arm
from gmem_trainer.reproduction.curves import Curve, Point
from gmem_trainer.training.batches import Examples
from gmem_trainer.training.loop import Step, train

PROCESS = Interpolant()
SAMPLER = ("ab2", 8)
JUDGE_SEED = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """The training images as an encoder sees them.

    Attributes:
        snippets: float32 ``(n, d)``, unit length.
        tokens: float32 ``(n, T, Z)``, the last convolution averaged to the network's tokens.
        seconds: CPU seconds the encoder took to train.
    """

    snippets: Tensor
    tokens: Tensor
    seconds: float


def encode(images: Images, seed: int, grid: int) -> Encoded:
    """Train the digits preset's encoder and embed the images it was trained on, without labels."""
    started = time.process_time()
    encoder = train_encoder(images.pixels, cast("EncoderRecipe", digits_preset().encoder), seed)
    seconds = time.process_time() - started
    pixels = torch.from_numpy(images.pixels)
    with torch.inference_mode():
        snippets = functional.normalize(encoder(pixels))
        tokens = functional.adaptive_avg_pool2d(encoder.feature_map(pixels), grid)
    return Encoded(snippets.clone(), tokens.flatten(2).mT.clone(), seconds)


def measure_training_images(dataset: Dataset[Images]) -> Figures:
    """Measure the training images as generated ones are measured on the test images."""
    judge, train = Judge(dataset.train, JUDGE_SEED), dataset.train
    return measure(judge, train, dataset.test, train.pixels, train.labels)


def run(
    arm: Arm,
    seed: int,
    dataset: Dataset[Images],
    judged_by: Images,
    looks: tuple[int, ...],
    per_class: int,
) -> Curve:
    """Train one arm and measure it at every number of steps in ``looks``.

    Args:
        arm: What to train.
        seed: Decides encoder, weights, batches and generated images.
        dataset: Trained on its training part.
        judged_by: The real images to compare with: the validation or the test part.
        looks: Numbers of steps, ascending; training ends with the last.
        per_class: Images generated of each class, for each look.
    """
    torch.set_num_threads(1)
    architecture = arm.architecture
    grid = architecture.input_size // architecture.patch_size
    encoded = encode(dataset.train, seed, grid) if arm.uses_encoder else None
    look = _Look(dataset, judged_by, arm, encoded, per_class, seed)
    points: list[Point] = []
    clock = _Clock()

    def report(step: Step) -> None:
        if step.number in looks:
            seconds = clock.pause()
            points.append(Point(step.number, seconds, look(step.averaged)))
            clock.resume()

    with tempfile.TemporaryDirectory() as folder:
        train(
            arm.recipe,
            architecture,
            PROCESS,
            _examples(arm, dataset.train, encoded),
            seed=seed,
            checkpoint=Path(folder) / "training.safetensors",
            checkpoint_every=arm.recipe.steps,
            report=report,
        )
    return Curve(arm.name, seed, encoded.seconds if encoded else 0.0, tuple(points))


def _examples(arm: Arm, images: Images, encoded: Encoded | None) -> Examples:
    latents = torch.from_numpy(images.pixels)
    if arm.condition == "snippet" and encoded is not None:
        return Examples(latents, encoded.snippets)
    features = (encoded.tokens,) if encoded is not None else ()
    return Examples(latents, torch.from_numpy(images.labels).long(), features)


class _Look:
    """Generates images with a network as it is now, and measures them."""

    def __init__(
        self,
        dataset: Dataset[Images],
        judged_by: Images,
        arm: Arm,
        encoded: Encoded | None,
        per_class: int,
        seed: int,
    ) -> None:
        judge = Judge(dataset.train, JUDGE_SEED)
        self._labels = np.repeat(np.array([c.id for c in dataset.classes], np.int32), per_class)
        self._measure = partial(measure, judge, dataset.train, judged_by)
        self._conditions = torch.from_numpy(self._labels).long()
        self._seed = seed
        if arm.condition == "snippet" and encoded is not None:
            rows = _rows_of(dataset.train.labels, self._labels, np.random.default_rng(seed))
            self._conditions = encoded.snippets[torch.from_numpy(rows)]

    def __call__(self, network: Network) -> Figures:
        sampler = BatchSampler(
            GuidedNetwork(network), Decoder(PixelSpace()), plan(*SAMPLER, PROCESS)
        )
        images = sampler(self._conditions, self._seed, np.arange(len(self._labels)))
        return self._measure(unit_pixels(images), self._labels)


def _rows_of(
    labels: NDArray[np.int32], wanted: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw for each wanted class one of its rows, all equally likely: int64 ``(n,)``."""
    return np.array([rng.choice(np.flatnonzero(labels == label)) for label in wanted])


class _Clock:
    """CPU seconds of this process, without those spent while paused."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since = time.process_time()

    def pause(self) -> float:
        self._spent += time.process_time() - self._since
        return self._spent

    def resume(self) -> None:
        self._since = time.process_time()
