"""How likely data is under a `Transport`'s ODE (Song et al. 2021, arXiv 2011.13456, D.2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gmem_model.guidance import Predict
from gmem_model.paths import drift
from gmem_model.samplers.adaptive import DOPRI5, ends, velocity
from gmem_model.samplers.dormand_prince import Slope, Tolerance, solve
from gmem_model.samplers.plan import integrate
from gmem_model.samplers.runge_kutta import runge_kutta
from gmem_model.samplers.transport import DTYPE, TABLEAUS, ode_grid
from gmem_shared.errors import UnknownSamplerError
from gmem_shared.model_config import Transport

_OF_VELOCITIES = partial(drift, Transport(prediction="velocity"))


def log_likelihood(
    predict: Predict,
    data: Tensor,
    process: Transport,
    signs: Callable[[int], Tensor],
    *,
    sampler: str = DOPRI5,
    num_steps: int = 250,
    tolerance: Tolerance | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate the logarithm of the density of data.

    The data is led back to noise, whose density is known; on the way densities change by the
    divergence of the velocity, which one random direction per evaluation estimates (Hutchinson).

    Args:
        predict: The network; gradients flow through it.
        data: Latents ``(N, C, S, S)``.
        process: How noise becomes data with the network.
        signs: The direction of evaluation k: entries of -1 and 1, in the shape of ``data``. SiT
            draws each anew; the same one throughout lets `DOPRI5` take longer steps.
        sampler: `DOPRI5` or one of `TABLEAUS`.
        num_steps: Number of times of a fixed grid.
        tolerance: For `DOPRI5`; its norm is applied to latents and densities apart.

    Returns:
        Natural logarithms ``(N,)`` and the noise that the data was led to, as ``data``.

    Raises:
        UnknownSamplerError: There is no such sampler.
    """
    slope = _with_density(velocity(predict, process), data.shape, signs)
    start = torch.cat([data.to(DTYPE).flatten(1), data.new_zeros(len(data), 1, dtype=DTYPE)], dim=1)
    if sampler == DOPRI5:
        tolerance = _apart(tolerance or Tolerance())
        end = solve(slope, start, *ends(process, reverse=True), tolerance)
    elif sampler in TABLEAUS:
        grid = ode_grid(process, num_steps, reverse=True)
        plan = runge_kutta(TABLEAUS[sampler], *grid, _OF_VELOCITIES, DTYPE)
        end = integrate(plan, slope, start)
    else:
        names = ", ".join((DOPRI5, *TABLEAUS))
        raise UnknownSamplerError(f"expected one of {names}; found {sampler!r}")
    noise, gain = end[:, :-1], end[:, -1]
    normal = -0.5 * (noise.shape[1] * math.log(2 * math.pi) + noise.square().sum(dim=1))
    return normal - gain, noise.reshape(data.shape)


def _apart(tolerance: Tolerance) -> Tolerance:
    def larger(x: Tensor) -> float:
        return max(tolerance.norm(x[:, :-1]), tolerance.norm(x[:, -1]))

    return replace(tolerance, norm=larger)


def _with_density(slope: Slope, shape: torch.Size, signs: Callable[[int], Tensor]) -> Slope:
    """Extend the slope of latents to states whose last entry is the gain in log density."""
    evaluations = itertools.count()

    def extended(state: Tensor, t: float) -> Tensor:
        direction = signs(next(evaluations))
        with torch.enable_grad():
            x = state[:, :-1].reshape(shape).detach().requires_grad_()
            v = slope(x, t)
            (change,) = torch.autograd.grad((v * direction).sum(), x)
        divergence = (change * direction).flatten(1).sum(dim=1, keepdim=True)
        return torch.cat([v.detach().flatten(1), -divergence], dim=1)

    return extended
