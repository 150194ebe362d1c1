"""Paths between data and noise, and what a network's prediction says on them.

A path mixes data x and noise eps, x_t = alpha(t) x + sigma(t) eps (stochastic interpolants,
arXiv 2303.08797; SiT, arXiv 2401.08740). Its velocity, alpha'(t) x + sigma'(t) eps, is the
regression target of most networks. An `Interpolant` has its data at t = 0, a `Transport` at t = 1.

Score, noise and drift follow from any kind of prediction m linearly, as p m + q x_t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gmem_shared.model_config import Interpolant, Transport

PathProcess = Interpolant | Transport

_QUARTER_TURN = math.pi / 2
_BETA_MIN, _BETA_MAX = 0.1, 20.0


@dataclass(frozen=True, slots=True)
class Coefficients:
    """alpha(t), sigma(t) and their derivatives by t, in the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


def coefficients(process: PathProcess, t: Tensor) -> Coefficients:
    """Return the path's coefficients at the times ``t``."""
    return _PATHS[process.kind, process.path](t)


def _line_to_noise(t: Tensor) -> Coefficients:
    one = torch.ones_like(t)
    return Coefficients(alpha=1 - t, sigma=t, d_alpha=-one, d_sigma=one)


def _arc_to_noise(t: Tensor) -> Coefficients:
    cos, sin = torch.cos(_QUARTER_TURN * t), torch.sin(_QUARTER_TURN * t)
    return Coefficients(cos, sin, d_alpha=-_QUARTER_TURN * sin, d_sigma=_QUARTER_TURN * cos)


def _line_to_data(t: Tensor) -> Coefficients:
    one = torch.ones_like(t)
    return Coefficients(alpha=t, sigma=1 - t, d_alpha=one, d_sigma=-one)


def _arc_to_data(t: Tensor) -> Coefficients:
    cos, sin = torch.cos(_QUARTER_TURN * t), torch.sin(_QUARTER_TURN * t)
    return Coefficients(sin, cos, d_alpha=_QUARTER_TURN * cos, d_sigma=-_QUARTER_TURN * sin)


def _variance_preserving(t: Tensor) -> Coefficients:
    """alpha² + sigma² = 1, with log alpha quadratic in time (Song et al. 2021, appendix C)."""
    left = 1 - t
    log_alpha = -0.25 * left**2 * (_BETA_MAX - _BETA_MIN) - 0.5 * left * _BETA_MIN
    d_log_alpha = 0.5 * left * (_BETA_MAX - _BETA_MIN) + 0.5 * _BETA_MIN
    alpha = torch.exp(log_alpha)
    sigma = torch.sqrt(-torch.expm1(2 * log_alpha))
    d_sigma = -torch.exp(2 * log_alpha) * d_log_alpha / sigma
    return Coefficients(alpha, sigma, d_alpha=alpha * d_log_alpha, d_sigma=d_sigma)


_PATHS: dict[tuple[str, str], Callable[[Tensor], Coefficients]] = {
    ("interpolant", "linear"): _line_to_noise,
    ("interpolant", "cosine"): _arc_to_noise,
    ("transport", "linear"): _line_to_data,
    ("transport", "gvp"): _arc_to_data,
    ("transport", "vp"): _variance_preserving,
}


@dataclass(frozen=True, slots=True)
class Combination:
    """prediction * m + state * x_t, for a network's prediction m of the noisy latent x_t."""

    prediction: Tensor
    state: Tensor


def score(process: PathProcess, t: Tensor) -> Combination:
    """Return how the score, the gradient of log p_t, follows from the network's prediction.

    From a velocity v (SiT, eq. 9): with r = alpha / alpha' and var = sigma² - r sigma' sigma,
    s = (r v - x_t) / var. From predicted noise: s = -eps / sigma.
    """
    c = coefficients(process, t)
    kind = prediction_kind(process)
    if kind == "velocity":
        ratio = c.alpha / c.d_alpha
        variance = c.sigma**2 - ratio * c.d_sigma * c.sigma
        return Combination(prediction=ratio / variance, state=-1 / variance)
    scale = torch.ones_like(t) if kind == "score" else -1 / c.sigma
    return Combination(prediction=scale, state=torch.zeros_like(t))


def drift(process: PathProcess, t: Tensor) -> Combination:
    """Return how dx/dt of the probability-flow ODE follows from the network's prediction.

    It is the velocity, which a score s gives as g s + alpha'/alpha x_t with `drift_variance` g.
    """
    if prediction_kind(process) == "velocity":
        return Combination(prediction=torch.ones_like(t), state=torch.zeros_like(t))
    c = coefficients(process, t)
    return Combination(
        prediction=drift_variance(process, t) * score(process, t).prediction,
        state=c.d_alpha / c.alpha,
    )


def drift_variance(process: PathProcess, t: Tensor) -> Tensor:
    """Return g(t) = sigma (sigma alpha'/alpha - sigma'): how strongly the score drives the ODE."""
    c = coefficients(process, t)
    growth = c.d_alpha / c.alpha
    if process.path == "vp":
        # The same, and defined past t = 1 as well, where an adaptive solver may look.
        return growth
    return c.sigma * (c.sigma * growth - c.d_sigma)


def prediction_kind(process: PathProcess) -> Literal["velocity", "noise", "score"]:
    """Return what the network predicts."""
    return process.prediction if isinstance(process, Transport) else "velocity"


def interpolate(process: PathProcess, x: Tensor, eps: Tensor, t_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the noisy latent x_t and the velocity to learn, both in the shape of ``x``."""
    c = coefficients(process, t_N.view(-1, *[1] * (x.dim() - 1)))
    return c.alpha * x + c.sigma * eps, c.d_alpha * x + c.d_sigma * eps
