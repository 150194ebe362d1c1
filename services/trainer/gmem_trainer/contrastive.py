"""SimCLR: train the snippet encoder without labels.

Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations".
Two random distortions of an image must be nearer to each other than to any other image of the
batch. A class that has no label in the data set can therefore still be told apart in the bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gmem_model.encoders.convnet import ConvNet


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """How the encoder is built and trained."""

    name: str
    width: int = 16
    dimension: int = 64
    steps: int = 120
    batch_size: int = 256
    learning_rate: float = 5e-3
    temperature: float = 0.3
    max_warp: float = 0.3
    """Largest change of an entry of the 2x2 matrix that maps the image plane to itself."""
    max_shift_pixels: float = 1.0
    max_gain: float = 0.3
    """Largest relative change of the strength of the stroke."""
    noise: float = 0.2


def train_encoder(pixels: NDArray[np.float32], recipe: EncoderRecipe, seed: int) -> ConvNet:
    """Train an encoder on images ``(n, c, h, w)``; the same seed gives the same weights."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ConvNet(pixels.shape[1], pixels.shape[2], recipe.width, recipe.dimension)
        head = nn.Sequential(
            nn.ReLU(), nn.Linear(recipe.dimension, recipe.dimension), nn.ReLU(),
            nn.Linear(recipe.dimension, recipe.dimension),
        )  # fmt: skip
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps
    )
    images = torch.from_numpy(pixels)
    for _ in range(recipe.steps):
        batch = images[torch.randperm(len(images), generator=random)[: recipe.batch_size]]
        views = torch.cat([distort(batch, recipe, random), distort(batch, recipe, random)])
        loss = nt_xent(head(encoder(views)), recipe.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return encoder.eval()


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross entropy (equation 1).

    Args:
        projections: ``(2n, d)``; rows ``i`` and ``i + n`` are two views of one image.
        temperature: Divisor of the cosine similarities.
    """
    unit = functional.normalize(projections)
    similarity = unit @ unit.T / temperature
    similarity.fill_diagonal_(-math.inf)
    count = len(unit) // 2
    partner = (torch.arange(2 * count) + count) % (2 * count)
    return functional.cross_entropy(similarity, partner)


def distort(images: Tensor, recipe: EncoderRecipe, random: torch.Generator) -> Tensor:
    """Return images ``(n, c, side, side)``, each moved, strengthened and disturbed differently."""
    shift = 2 * recipe.max_shift_pixels / images.shape[-1]
    limits = torch.tensor([recipe.max_warp, recipe.max_warp, shift]).repeat(2, 1)
    change = (torch.rand(len(images), 2, 3, generator=random) * 2 - 1) * limits
    affine = torch.eye(2, 3) + change
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    # Padding is zero; background is -1, so the image is moved by one and back.
    moved = functional.grid_sample(images + 1, grid, align_corners=False)
    gain = torch.rand(len(images), 1, 1, 1, generator=random) * 2 - 1
    return (
        (1 + recipe.max_gain * gain) * moved
        - 1
        + recipe.noise * torch.randn(moved.shape, generator=random)
    )
