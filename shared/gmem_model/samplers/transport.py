"""Samplers of SiT and GMem v2: from noise at t = 0 to data at t = 1, in float32.

As published, a step count of N means a grid of N times: an ODE takes N - 1 steps, an SDE N - 1
stochastic steps and one last step without noise. An interval of guidance decides by the time of
each evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gmem_model.paths import Combination, coefficients, drift, drift_variance, score
from gmem_model.samplers.plan import Column, Plan
from gmem_model.samplers.runge_kutta import (
    EULER,
    HEUN,
    HEUN3,
    MIDPOINT,
    THREE_EIGHTHS,
    Tableau,
    adams_bashforth,
    runge_kutta,
)
from gmem_shared.model_config import Transport

DTYPE = torch.float32

TABLEAUS = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "heun3": HEUN3,
    "rk4": THREE_EIGHTHS,
}
_STOCHASTIC = {"euler-maruyama": EULER, "stochastic-heun": HEUN}

_DIFFUSIONS: dict[str, Callable[[Transport, Tensor], Tensor]] = {
    "constant": lambda process, t: torch.full_like(t, process.diffusion_norm),
    "sbdm": lambda process, t: process.diffusion_norm * drift_variance(process, t),
    "sigma": lambda process, t: process.diffusion_norm * coefficients(process, t).sigma,
    "linear": lambda process, t: process.diffusion_norm * (1 - t),
    "decreasing": lambda process, t: (
        0.25 * (process.diffusion_norm * torch.cos(math.pi * t) + 1) ** 2
    ),
    "increasing-decreasing": lambda process, t: (
        process.diffusion_norm * torch.sin(math.pi * t) ** 2
    ),
}


def diffusion(process: Transport, t: Tensor) -> Tensor:
    """Return the diffusion w(t) of the SDE, in the shape of ``t`` (SiT, table 1)."""
    return _DIFFUSIONS[process.diffusion_form](process, t)


def sample_eps(process: Transport) -> float:
    """Return how far sampling stays away from the ends of time where the drift diverges.

    As published, a configured eps is ignored where the velocity is finite at both ends.
    """
    if process.path != "vp" and process.prediction == "velocity":
        return 0.0
    return 1e-3 if process.sample_eps is None else process.sample_eps


def interval(process: Transport, *, sde: bool = False) -> tuple[float, float]:
    """Return where an integration begins and ends, going from noise to data.

    The variance-preserving path has no singularity at noise. An SDE ends where its last step
    begins.
    """
    eps = sample_eps(process)
    first = 0.0 if process.path == "vp" else eps
    if sde and process.last_step is not None and process.last_step_size > 0:
        return first, 1 - process.last_step_size
    return first, 1 - eps


def ode_grid(process: Transport, num_steps: int, *, reverse: bool = False) -> tuple[Column, Column]:
    """Return the starts and lengths of an ODE's steps, float32 values ``(num_steps - 1,)``.

    ``reverse`` goes from data to noise. ``timestep_shift`` s moves a time t to
    s t / (1 + (s - 1) t).
    """
    first, last = _reverse_interval(process) if reverse else interval(process)
    grid = torch.linspace(first, last, num_steps, dtype=DTYPE)
    if process.timestep_shift > 0:
        grid = process.timestep_shift * grid / (1 + (process.timestep_shift - 1) * grid)
    return grid[:-1].double().numpy(), grid.diff().double().numpy()


def _reverse_interval(process: Transport) -> tuple[float, float]:
    """Return where an integration begins and ends, going from data to noise.

    As published, the interval of sampling is mirrored, so the variance-preserving path begins at
    the very data. Predicted noise diverges there, and goes back over the interval it came by.
    """
    first, last = interval(process)
    if process.path == "vp" and process.prediction == "noise":
        return last, first
    return 1 - first, 1 - last


def ode(process: Transport, tableau: Tableau, num_steps: int, *, reverse: bool = False) -> Plan:
    """Integrate the probability-flow ODE."""
    grid = ode_grid(process, num_steps, reverse=reverse)
    plan = runge_kutta(tableau, *grid, partial(drift, process), DTYPE)
    return replace(plan, gates=plan.times)


def ab2(process: Transport, num_steps: int, *, reverse: bool = False) -> Plan:
    """Integrate the probability-flow ODE of velocities by two-step Adams-Bashforth."""
    return adams_bashforth(*ode_grid(process, num_steps, reverse=reverse), DTYPE)


def sde(process: Transport, tableau: Tableau, num_steps: int) -> Plan:
    """Integrate the SDE dx = (drift + w score) dt + sqrt(2 w) dW (SiT, eq. 4).

    Euler-Maruyama adds noise after the drift; with Heun, noise comes before the drift and its
    correction, which is after the step before.
    """
    first, last = interval(process, sde=True)
    grid = torch.linspace(first, last, num_steps, dtype=DTYPE)
    starts = grid[:-1].double()
    step = float(grid[1] - grid[0])
    steps = np.full(len(starts), step)
    noise = torch.sqrt(2 * diffusion(process, starts) * step).numpy()
    flow = partial(_stochastic_drift, process)
    if tableau is EULER:
        plan = replace(runge_kutta(tableau, starts.numpy(), steps, flow, DTYPE), noise=noise)
    else:
        plan = _noise_first(_corrected(tableau, starts.numpy(), steps, flow, last), noise)
    end = _last_step(process, last)
    plan = plan if end is None else plan.then(end)
    return replace(plan, gates=plan.times)


def _stochastic_drift(process: Transport, t: Tensor) -> Combination:
    f, s, w = drift(process, t), score(process, t), diffusion(process, t)
    return Combination(f.prediction + w * s.prediction, f.state + w * s.state)


def _corrected(
    tableau: Tableau,
    starts: Column,
    steps: Column,
    flow: Callable[[Tensor], Combination],
    last: float,
) -> Plan:
    """Tabulate all steps; one that ends where there is no noise, and no score, is Euler's."""
    if last < 1:
        return runge_kutta(tableau, starts, steps, flow, DTYPE)
    corrected = runge_kutta(tableau, starts[:-1], steps[:-1], flow, DTYPE)
    return corrected.then(runge_kutta(EULER, starts[-1:], steps[-1:], flow, DTYPE))


def _noise_first(plan: Plan, noise: Column) -> Plan:
    """Add each step's noise, ``(steps,)``, before it."""
    after = np.zeros(len(plan))
    after[plan.commit] = np.append(noise[1:], 0.0)
    return replace(plan, noise=after, initial_noise=float(noise[0]))


def _last_step(process: Transport, last: float) -> Plan | None:
    """Tabulate the step that removes what noise is left at the end of the grid."""
    t = torch.tensor([last], dtype=DTYPE).double()
    size = process.last_step_size
    if process.last_step is None or last == 1 or (size == 0 and process.last_step != "tweedie"):
        return None
    if process.last_step == "tweedie":
        c, s = coefficients(process, t), score(process, t)
        gain = c.sigma**2 / c.alpha
        base, prediction = 1 / c.alpha + gain * s.state, gain * s.prediction
    else:
        flow = drift if process.last_step == "euler" else _stochastic_drift
        f = flow(process, t)
        base, prediction = 1 + size * f.state, size * f.prediction
    return Plan.tabulate(t.numpy(), base=base.numpy(), prediction=prediction.numpy(), dtype=DTYPE)


def samplers_of(process: Transport, *, reverse: bool) -> dict[str, Callable[[int], Plan]]:
    """Return the samplers that can integrate this process, as functions of the step count.

    Adams-Bashforth needs predicted velocities; an SDE needs a diffusion that is finite throughout,
    and goes from noise to data only.
    """
    known: dict[str, Callable[[int], Plan]] = {
        name: partial(ode, process, tableau, reverse=reverse) for name, tableau in TABLEAUS.items()
    }
    if process.prediction == "velocity":
        known["ab2"] = partial(ab2, process, reverse=reverse)
    first, _ = interval(process, sde=True)
    if not reverse and diffusion(process, torch.tensor(first, dtype=torch.float64)).isfinite():
        known |= {name: partial(sde, process, tableau) for name, tableau in _STOCHASTIC.items()}
    return known
