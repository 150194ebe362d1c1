"""Paths between data and noise, and the velocity that a network learns on them.

A path mixes data x and noise eps, x_t = alpha(t) x + sigma(t) eps, from data at t = 0 to noise at
t = 1 (stochastic interpolants, arXiv 2303.08797; SiT, arXiv 2401.08740). Its velocity,
alpha'(t) x + sigma'(t) eps, is the regression target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PathName = Literal["linear", "cosine"]
TimeDistribution = Literal["uniform", "lognormal"]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """alpha(t), sigma(t) and their derivatives by t, in the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


def coefficients(path: PathName, t: Tensor) -> Coefficients:
    """Return the path's coefficients at the times ``t``."""
    if path == "linear":
        one = torch.ones_like(t)
        return Coefficients(alpha=1 - t, sigma=t, d_alpha=-one, d_sigma=one)
    quarter_turn = math.pi / 2
    cos, sin = torch.cos(quarter_turn * t), torch.sin(quarter_turn * t)
    return Coefficients(cos, sin, d_alpha=-quarter_turn * sin, d_sigma=quarter_turn * cos)


@dataclass(frozen=True, slots=True)
class ScoreCoefficients:
    """The score as a combination of velocity and state: s = velocity * v + state * x_t."""

    velocity: Tensor
    state: Tensor


def score_coefficients(path: PathName, t: Tensor) -> ScoreCoefficients:
    """Return how the score follows from the velocity for t > 0 (SiT, eq. 9).

    With r = alpha / alpha' and var = sigma² - r sigma' sigma, s = (r v - x_t) / var.
    """
    c = coefficients(path, t)
    ratio = c.alpha / c.d_alpha
    variance = c.sigma**2 - ratio * c.d_sigma * c.sigma
    return ScoreCoefficients(velocity=ratio / variance, state=-1 / variance)


def interpolate(path: PathName, x: Tensor, eps: Tensor, t_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the noisy latent x_t and the velocity to learn, both in the shape of ``x``."""
    c = coefficients(path, t_N.view(-1, *[1] * (x.dim() - 1)))
    return c.alpha * x + c.sigma * eps, c.d_alpha * x + c.d_sigma * eps


def velocity_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Return each row's mean squared error, ``(N,)``."""
    return (velocity - target).square().flatten(1).mean(dim=1)


def sample_times(
    n: int,
    generator: torch.Generator,
    *,
    distribution: TimeDistribution = "uniform",
    path: PathName = "linear",
) -> Tensor:
    """Draw training times in [0, 1], float32 ``(n,)``.

    ``lognormal`` draws the ratio sigma / alpha from exp(N(0, 1)), which favours the middle.
    """
    if distribution == "uniform":
        return torch.rand(n, generator=generator)
    ratio = torch.randn(n, generator=generator).exp()
    return ratio / (1 + ratio) if path == "linear" else torch.atan(ratio) * (2 / math.pi)
