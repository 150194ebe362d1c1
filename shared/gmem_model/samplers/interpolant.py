"""Samplers of GMem v1 and REPA: from noise at t = 1 to data at t = 0, in float64.

An interval of guidance decides by the time at which a step starts, also for its corrector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from gmem_model.paths import Combination, drift, score
from gmem_model.samplers.plan import Column, Plan
from gmem_model.samplers.runge_kutta import EULER, HEUN, adams_bashforth, runge_kutta
from gmem_shared.model_config import Interpolant

LAST_SDE_TIME = 0.04
"""Where the noise-free last step of `euler_maruyama` begins: the score diverges at t = 0."""


def euler(process: Interpolant, num_steps: int) -> Plan:
    """Follow the velocity: first order, one evaluation per step."""
    return runge_kutta(EULER, *_even_grid(num_steps), partial(drift, process))


def heun(process: Interpolant, num_steps: int) -> Plan:
    """Correct each Euler step with the velocity at its end: second order, two evaluations.

    The last step stays Euler's, because its end, t = 0, is no noise level.
    """
    starts, steps = _even_grid(num_steps)
    flow = partial(drift, process)
    corrected = runge_kutta(HEUN, starts[:-1], steps[:-1], flow)
    return corrected.then(runge_kutta(EULER, starts[-1:], steps[-1:], flow))


def ab2(process: Interpolant, num_steps: int) -> Plan:
    """Two-step Adams-Bashforth: second order with one evaluation per step; starts with Euler."""
    return adams_bashforth(*_even_grid(num_steps))


def euler_maruyama(process: Interpolant, num_steps: int) -> Plan:
    """Integrate the reverse SDE with diffusion w = 2 t (SiT, eq. 10); the last step adds no noise.

    dx = (v - w/2 s) dt + sqrt(w) dW with the score s. The grid is that of GMem v1: evenly spaced
    from 1 to `LAST_SDE_TIME`, then one step to 0.
    """

    def reverse_drift(t: Tensor) -> Combination:
        v, s = drift(process, t), score(process, t)
        return Combination(v.prediction - t * s.prediction, v.state - t * s.state)

    starts = np.linspace(1.0, LAST_SDE_TIME, num_steps)
    steps = np.diff(starts, append=0.0)
    noise = np.sqrt(2 * starts * -steps)
    noise[-1] = 0.0
    return replace(runge_kutta(EULER, starts, steps, reverse_drift), noise=noise)


def _even_grid(num_steps: int) -> tuple[Column, Column]:
    grid = np.linspace(1.0, 0.0, num_steps + 1)
    return grid[:-1], np.diff(grid)


SAMPLERS: dict[str, Callable[[Interpolant, int], Plan]] = {
    "euler": euler,
    "heun": heun,
    "ab2": ab2,
    "euler-maruyama": euler_maruyama,
}
