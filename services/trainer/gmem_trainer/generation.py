"""Images from a network and a bank, offline: a whole batch at once, without the engine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmem_model import noise
from gmem_model.decoding import Decoder
from gmem_model.network import Network
from gmem_model.samplers import integrate, plan
from gmem_shared.bank_data import BankData
from gmem_shared.model_config import ModelConfig


def draw_rows(bank: BankData, labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Draw for each label one of its class's rows, all equally likely: int64 ``(n,)``."""
    bounds = np.array([bank.class_rows(int(label)) for label in labels])
    return np.random.default_rng(seed).integers(bounds[:, 0], bounds[:, 1])


@torch.inference_mode()
def generate(
    network: Network, config: ModelConfig, snippets: NDArray[np.float32], seed: int
) -> NDArray[np.uint8]:
    """Generate one image per snippet ``(n, d)`` with the model's default sampler.

    The initial latents are those a service gives to images 0 … n-1 of ``seed``.

    Returns:
        uint8 ``(n, height, width, channels)``, as a service would deliver them.
    """
    count = len(snippets)
    architecture = config.architecture
    shape = (architecture.in_channels, architecture.input_size, architecture.input_size)
    start = noise.normal(
        np.full(count, seed, np.uint64), np.arange(count), np.zeros(count, np.int64), shape
    )
    condition = torch.from_numpy(snippets)

    def velocity(x: Tensor, t: float) -> Tensor:
        return network(x.float(), torch.full((count,), t), condition)

    sampler = plan(config.default_sampler, config.default_steps, config.process)
    latents = integrate(sampler, velocity, torch.from_numpy(start))
    return Decoder(config.latent_space)(latents)


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
