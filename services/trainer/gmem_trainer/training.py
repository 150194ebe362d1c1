"""The training loop: flow matching on images, each under its own snippet of the bank.

Everything random in step k comes from a generator seeded by (seed, k). A run that was killed
therefore needs weights, averages, optimizer moments and a step number, and no generator state, to
go on bit for bit as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gmem_model.paths import interpolate, sample_times, velocity_loss
from gmem_model.sit import SiT
from gmem_shared.model_config import Interpolant, SiTArchitecture
from gmem_trainer.training_state import TrainingState

Report = Callable[[int, float], None]
"""Told the number of steps done and the loss of the last one."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How the network is trained."""

    steps: int = 350
    batch_size: int = 128
    learning_rate: float = 6e-3
    warmup_steps: int = 20
    beta2: float = 0.99
    max_gradient_norm: float = 1.0
    snippet_noise: float = 0.75
    """Standard deviation per entry of the noise on a snippet of length sqrt(d); see `blur`."""
    ema_exponent: float = 6.94
    """gamma of the power-function average (Karras et al. 2024, equation 11)."""


def train(
    recipe: TrainingRecipe,
    architecture: SiTArchitecture,
    images: Tensor,
    snippets: Tensor,
    *,
    seed: int,
    checkpoint: Path,
    checkpoint_every: int,
    report: Report,
) -> SiT:
    """Train a network and return its averaged weights, in eval mode.

    Args:
        recipe: Hyper-parameters.
        architecture: Sizes of the network.
        images: float32 ``(n, c, h, w)`` in [-1, 1].
        snippets: float32 ``(n, d)``, unit length; row i is the snippet of image i.
        seed: Decides the initial weights and every batch.
        checkpoint: Where the run's state is kept; training resumes from it if it exists.
        checkpoint_every: Steps between two saves.
        report: Called after each step.
    """
    initial = SiT(architecture, generator=_generator(seed, 0))
    state = TrainingState(initial, learning_rate=recipe.learning_rate, beta2=recipe.beta2)
    state.resume(checkpoint)
    while state.step < recipe.steps:
        random = _generator(seed, state.step + 1)
        rows = torch.randint(len(images), (recipe.batch_size,), generator=random)
        t = sample_times(len(rows), random, distribution="lognormal")
        noise = torch.randn(images[rows].shape, generator=random)
        x_t, target = interpolate(Interpolant(), images[rows], noise, t)
        condition = blur(snippets[rows], recipe.snippet_noise, random)

        loss = velocity_loss(state.network(x_t, t, condition), target).mean()
        state.network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.max_gradient_norm)
        state.descend(learning_rate(recipe, state.step))
        state.average(recipe.ema_exponent)

        report(state.step, loss.item())
        if state.step % checkpoint_every == 0 or state.step == recipe.steps:
            state.save(checkpoint)
    return state.averaged.eval()


def blur(snippets: Tensor, noise: float, random: torch.Generator) -> Tensor:
    """Disturb unit-length snippets ``(n, d)``, so that the network cannot learn whose they are.

    Without it a network trained for long gives back the one image that belongs to the snippet.
    """
    scale = snippets.shape[1] ** 0.5
    disturbed = snippets * scale + noise * torch.randn(snippets.shape, generator=random)
    return functional.normalize(disturbed)


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Warm up linearly, stay, then fall linearly to zero over the second half."""
    warmup = (step + 1) / recipe.warmup_steps
    decay = 2 * (recipe.steps - step) / recipe.steps
    return recipe.learning_rate * min(warmup, 1.0, decay)


def _generator(seed: int, step: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
