"""What the flow networks are trained to do: at which times, towards what, by which measure.

Losses are returned per row, ``(N,)``, before any mean over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor

from gmem_model.paths import (
    PathProcess,
    coefficients,
    drift_variance,
    interpolate,
    prediction_kind,
)
from gmem_shared.model_config import Transport

TimeDistribution = Literal["uniform", "lognormal"]
LossWeight = Literal["none", "velocity", "likelihood"]

_VP_TRAIN_EPS = 1e-5
_OTHER_TRAIN_EPS = 1e-3


@dataclass(frozen=True, slots=True)
class Regression:
    """A network is shown ``x_t``; ``scale`` times its prediction m should be ``target``.

    Attributes:
        x_t: Noisy latents ``(N, C, S, S)``.
        target: In the shape of ``x_t``.
        scale, weight: ``(N, 1, 1, 1)``; the loss is weight (scale m - target)².
    """

    x_t: Tensor
    target: Tensor
    scale: Tensor
    weight: Tensor

    def loss(self, prediction: Tensor) -> Tensor:
        """Return each row's weighted mean squared error, ``(N,)``."""
        error = self.weight * (self.scale * prediction - self.target).square()
        return error.flatten(1).mean(dim=1)


def regression(
    process: PathProcess, x: Tensor, eps: Tensor, t_N: Tensor, weight: LossWeight = "none"
) -> Regression:
    """Mix data ``x`` and noise ``eps`` at the times ``t_N``, and say what is to be predicted.

    Velocity, or noise, or the score, which is regressed on -eps / sigma through sigma times itself.
    ``weight`` applies to the latter two: it makes their loss that of the velocity, or a bound on
    the likelihood (SiT, arXiv 2401.08740, section 2.3).
    """
    x_t, velocity = interpolate(process, x, eps, t_N)
    t = t_N.view(-1, *[1] * (x.dim() - 1))
    kind, one = prediction_kind(process), torch.ones_like(t)
    if kind == "velocity":
        return Regression(x_t, velocity, one, one)
    sigma = coefficients(process, t).sigma
    weights = {
        "none": one,
        "velocity": (drift_variance(process, t) / sigma).square(),
        "likelihood": drift_variance(process, t) / sigma.square(),
    }
    if kind == "noise":
        return Regression(x_t, eps, one, weights[weight])
    return Regression(x_t, -eps, sigma, weights[weight])


def cosine_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return one minus the mean cosine between the channel vectors (LightningDiT), ``(N,)``."""
    cosine = F.cosine_similarity(prediction, target, dim=1, eps=1e-8)
    return (1 - cosine).flatten(1).mean(dim=1)


def projection_loss(projections: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Return how far tokens point away from an encoder's features (REPA, arXiv 2410.06940, eq. 8).

    Args:
        projections: Per projector its view of the tokens, ``(N, T, Z)``.
        features: What each should point to: ``(N, T, Z)``, or ``(N, 1, Z)`` for all tokens alike.

    Returns:
        Minus the mean cosine over tokens and projectors, ``(N,)``.
    """
    cosines = [
        (F.normalize(z, dim=-1, eps=1e-12) * F.normalize(y, dim=-1, eps=1e-12)).sum(-1).mean(dim=1)
        for z, y in zip(projections, features, strict=True)
    ]
    return -torch.stack(cosines).mean(dim=0)


def training_times(
    process: PathProcess, n: int, generator: torch.Generator, distribution: TimeDistribution
) -> Tensor:
    """Draw training times, float32 ``(n,)``."""
    if distribution == "lognormal":
        return lognormal_times(process, torch.randn(n, generator=generator))
    low, high = training_interval(process)
    return torch.rand(n, generator=generator) * (high - low) + low


def lognormal_times(process: PathProcess, normal_N: Tensor) -> Tensor:
    """Return the times at which one side outweighs the other by exp(``normal_N``).

    The ratio of noise to data, or of data to noise where t = 1 is data, is log-normal; the middle
    is favoured. The times are squeezed into the `training_interval`.
    """
    ratio = normal_N.exp()
    t_N = torch.atan(ratio) * (2 / math.pi) if process.path == "cosine" else ratio / (1 + ratio)
    low, high = training_interval(process)
    return t_N * (high - low) + low


def training_interval(process: PathProcess) -> tuple[float, float]:
    """Return the times between which a network is trained: away from where its target diverges."""
    if not isinstance(process, Transport):
        return 0.0, 1.0
    if process.path == "vp":
        return 0.0, 1 - _given(process.train_eps, _VP_TRAIN_EPS)
    if process.prediction == "velocity":
        return 0.0, 1.0
    eps = _given(process.train_eps, _OTHER_TRAIN_EPS)
    return eps, 1 - eps


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
