"""How a network is trained: every number of it, typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gmem_model.losses import LossWeight, TimeDistribution


@dataclass(frozen=True, slots=True)
class ConstantAverage:
    """Exponential average of the weights with the same decay in every step."""

    decay: float = 0.9999

    def weight(self, step: int) -> float:
        """Return the share of the weights after ``step`` steps, counted from 1."""
        return 1 - self.decay


@dataclass(frozen=True, slots=True)
class PowerAverage:
    """Average whose width grows with the length of the run.

    Source: Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models",
    equation 11.
    """

    exponent: float = 6.94

    def weight(self, step: int) -> float:
        """Return the share of the weights after ``step`` steps, counted from 1."""
        return 1 - (1 - 1 / step) ** (self.exponent + 1)


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Hyper-parameters; the defaults are those of SiT as published (arXiv 2401.08740)."""

    steps: int
    batch_size: int = 256
    """Of all processes together."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay: bool = False
    """Whether the learning rate falls to zero over the second half."""
    max_gradient_norm: float | None = None
    average: ConstantAverage | PowerAverage = ConstantAverage()
    times: TimeDistribution = "uniform"
    loss_weight: LossWeight = "none"
    """For networks that predict noise or score."""
    cosine_weight: float = 0.0
    """Of the angle between predicted and true velocity (LightningDiT, arXiv 2501.01423)."""
    projection_weight: float = 0.0
    """Of the alignment of tokens with an encoder's features (REPA, arXiv 2410.06940)."""
    label_dropout: float = 0.0
    """Share of the rows that are trained without their class."""
    snippet_dropout: bool = False
    """Drops entries of the snippet, or of what it is mapped to, as the network's family does."""
    snippet_noise: float = 0.0
    """Standard deviation per entry of the noise on a snippet of length sqrt(d); see `blur`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic; weights, loss and optimizer stay in float32."""

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` others."""
        warmup = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay = 2 * (self.steps - step) / self.steps if self.decay else 1.0
        return self.learning_rate * min(warmup, 1.0, decay)
