"""Samplers of EDM2 (Karras et al. 2022, algorithm 2): down noise levels sigma, in float32.

The network predicts the denoised image D; dx/dsigma = (x - D) / sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gmem_model.paths import Combination
from gmem_model.samplers.plan import Column, Plan
from gmem_model.samplers.runge_kutta import EULER, HEUN, runge_kutta
from gmem_shared.model_config import EDM

DTYPE = torch.float32


def sigma_grid(process: EDM, num_steps: int) -> Column:
    """Return the noise levels, float32 values ``(num_steps + 1,)``; the last is 0.

    They are evenly spaced in sigma^(1/rho) from ``sigma_max`` to ``sigma_min``.
    """
    first, last = (s ** (1 / process.rho) for s in (process.sigma_max, process.sigma_min))
    levels = np.linspace(first, last, num_steps) ** process.rho
    return np.append(levels, 0.0).astype(np.float32).astype(np.float64)


def euler(process: EDM, num_steps: int) -> Plan:
    """Follow the drift: first order, one evaluation per step."""
    return _stochastic(process, num_steps, corrected=0)


def heun(process: EDM, num_steps: int) -> Plan:
    """Correct each step but the last, whose end is no noise level: second order."""
    return _stochastic(process, num_steps, corrected=num_steps - 1)


def _stochastic(process: EDM, num_steps: int, *, corrected: int) -> Plan:
    """Tabulate a sampler whose first ``corrected`` steps are Heun's.

    With ``churn``, noise raises the level before a step, which is after the one before.
    """
    grid = sigma_grid(process, num_steps)
    levels = grid[:-1]
    starts = levels * (1 + _churn(levels, process))
    amplitudes = process.churn_noise * np.sqrt(starts**2 - levels**2)
    steps = grid[1:] - starts
    heun = runge_kutta(HEUN, starts[:corrected], steps[:corrected], _drift, DTYPE)
    euler = runge_kutta(EULER, starts[corrected:], steps[corrected:], _drift, DTYPE)
    plan = heun.then(euler)
    noise = plan.noise
    noise[plan.commit] = np.append(amplitudes[1:], 0.0)
    return replace(
        plan,
        gates=plan.times,
        noise=noise,
        initial_scale=float(grid[0]),
        initial_noise=float(amplitudes[0]),
    )


def _churn(levels: Column, process: EDM) -> Column:
    """Return by which share each level is raised."""
    highest = np.inf if process.churn_max is None else process.churn_max
    churned = (process.churn_min <= levels) & (levels <= highest)
    return np.where(churned, min(process.churn / len(levels), np.sqrt(2) - 1), 0.0)


def _drift(sigma: Tensor) -> Combination:
    return Combination(prediction=-1 / sigma, state=1 / sigma)


SAMPLERS: dict[str, Callable[[EDM, int], Plan]] = {"heun": heun, "euler": euler}
