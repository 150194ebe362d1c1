"""Images from a network and a bank, offline: a whole batch at once, without the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmem_model import noise
from gmem_model.decoding import Decoder
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_model.samplers import Plan, integrate, plan
from gmem_model.samplers.adaptive import dopri5
from gmem_shared.bank_data import BankData
from gmem_shared.errors import NotReadyError
from gmem_shared.model_config import Guidance, ModelConfig, Transport

_BATCH_VALUES = 1 << 18
"""Values of all latents that `generate` samples at once."""


def draw_rows(bank: BankData, labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Draw for each label one of its class's rows by weight, int64 ``(n,)``; -1 is any class."""
    bounds = np.array([_rows_of(bank, int(label)) for label in labels])
    cumulative = bank.cumulative_weights.astype(np.int64)
    chosen = np.random.default_rng(seed).integers(
        cumulative[bounds[:, 0]], cumulative[bounds[:, 1]]
    )
    rows: NDArray[np.int64] = np.searchsorted(cumulative, chosen, side="right") - 1
    return rows


def _rows_of(bank: BankData, label: int) -> tuple[int, int]:
    return (0, len(bank)) if label < 0 else bank.class_rows(label)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Dopri5, which chooses its steps by the error of a whole batch: images depend on theirs."""

    process: Transport
    guidance: Guidance | None


class BatchSampler:
    """Makes a whole batch of images at once, offline, without the engine.

    The engine lets rows join and leave at every evaluation. A job knows all its images beforehand,
    so its batches stay full by themselves and need no queue, no slots and no windows.

    Args:
        network: In eval mode, on ``device``, with its reference if it is guided.
        decoder: Turns the network's latents into images.
        solver: From noise to data.
        device: Where the network is.
    """

    def __init__(
        self,
        network: GuidedNetwork,
        decoder: Decoder,
        solver: Plan | Adaptive,
        device: torch.device | str = "cpu",
    ) -> None:
        self._network = network
        self._decoder = decoder
        self._solver = solver
        self._device = device

    def initial_latents(self, seed: int, indices: NDArray[np.int64]) -> Tensor:
        """Return the noise that these images of a seed start from, float64 ``(n, C, S, S)``."""
        return self._noise(seed, indices, noise.INITIAL_LATENT)

    @torch.inference_mode()
    def __call__(
        self, condition: Tensor, seed: int, indices: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Make one image per condition, those a service gives to these numbers of the seed.

        Args:
            condition: As the network takes it, ``(n, …)``.
            seed: Of the noise.
            indices: int64 ``(n,)``, each image's number within the seed's stream.

        Returns:
            uint8 ``(n, height, width, channels)``.

        Raises:
            NotReadyError: The network gave values that are not finite.
        """

        def fresh(evaluation: int) -> Tensor:
            stage = noise.stage_of_evaluation(evaluation)
            return self._noise(seed, indices, stage).to(self._device)

        start = self.initial_latents(seed, indices).to(self._device)
        latents = self._integrate(condition.to(self._device), start, fresh)
        self._check(latents, indices)
        return self._decoder(latents)

    def _integrate(
        self, condition: Tensor, start: Tensor, fresh: Callable[[int], Tensor]
    ) -> Tensor:
        network, solver = self._network, self._solver
        if isinstance(solver, Adaptive):
            return dopri5(network.predictor(condition, solver.guidance), start, solver.process)
        predict, reference = network.predictors(condition)
        return integrate(
            solver, predict, start, fresh, reference=reference, channels=network.channels
        )

    def _noise(self, seed: int, indices: NDArray[np.int64], stage: int) -> Tensor:
        seeds, stages = np.full(len(indices), seed, np.uint64), np.full(len(indices), stage)
        shape = self._network.network.latent_shape
        return torch.from_numpy(noise.normal(seeds, indices, stages, shape))

    def _check(self, latents: Tensor, indices: NDArray[np.int64]) -> None:
        finite = torch.isfinite(latents).flatten(1).all(dim=1).cpu().numpy()
        if not finite.all():
            raise NotReadyError(
                f"expected finite latents, found others in image {indices[~finite][0]}; publish a "
                "sound model version"
            )


def generate(
    network: Network,
    config: ModelConfig,
    conditions: NDArray[Any],
    seed: int,
    decoder: Decoder | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """Generate one image per condition, ``(n, …)``, with the model's default sampler.

    Args:
        network: On ``device``.
        config: Of the network.
        conditions: Snippets or class ids.
        seed: Of the noise.
        decoder: Where the latent space needs one with an autoencoder.
        device: Where the images are made.

    Returns:
        uint8 ``(n, height, width, channels)``, as a service would deliver images 0 … n-1 of
        ``seed``.
    """
    sampler = plan(config.default_sampler, config.default_steps, config.process)
    decoder = decoder or Decoder(config.latent_space)
    make = BatchSampler(GuidedNetwork(network), decoder, sampler, device)
    batches = -(-len(conditions) * math.prod(network.latent_shape) // _BATCH_VALUES)
    images = [
        make(torch.from_numpy(conditions[some]), seed, some)
        for some in np.array_split(np.arange(len(conditions)), batches)
    ]
    return np.concatenate(images)


def grid(pictures: NDArray[np.uint8], columns: int, zoom: int = 6, gap: int = 6) -> Image.Image:
    """Lay out images uint8 ``(n, height, width, channels)`` row by row, enlarged."""
    pictures = pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    size = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    canvas = np.full(size, 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (index * (side + gap) + gap for index, side in zip(
            divmod(i, columns), (height, width), strict=True))  # fmt: skip
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas.squeeze(axis=2) if channels == 1 else canvas)
