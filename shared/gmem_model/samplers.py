"""Fixed-grid samplers as tables.

Each sampler integrates from noise (t = 1) to data (t = 0). What it does after a network
evaluation is a linear combination with coefficients known in advance, so a sampler is nothing but
a table with one line per evaluation, and rows of different samplers, step counts and progress can
share one batch (`docs/adr/0004-sampler-is-a-table.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.paths import score
from gmem_shared.errors import InvalidRequestError, OutOfRangeError, UnknownSamplerError
from gmem_shared.model_config import Interpolant, Process

Column = NDArray[np.float64]

LAST_SDE_TIME = 0.04
"""Where the noise-free last step of `euler_maruyama` begins: the score diverges at t = 0."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The network evaluations of one image.

    A row carries its state x, its base b (at first x) and the last velocity p (at first 0), all
    float64. Evaluation k gives v = velocity(x, times[k]); then, with fresh normal noise eps::

        x <- current[k] x + base[k] b + velocity[k] v + previous[k] p + noise[k] eps
        p <- v
        b <- x   if commit[k]

    Attributes:
        times, current, base, velocity, previous, noise: float64 ``(E,)``.
        commit: bool ``(E,)``.
    """

    times: Column
    current: Column
    base: Column
    velocity: Column
    previous: Column
    noise: Column
    commit: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return E, the number of network evaluations."""
        return len(self.times)


def plan(name: str, num_steps: int, process: Process | None = None) -> Plan:
    """Tabulate a sampler.

    Args:
        name: One of `SAMPLERS`.
        num_steps: Steps of the time grid, at least 1.
        process: How the network's noise becomes data.

    Raises:
        UnknownSamplerError: No sampler has this name.
        OutOfRangeError: ``num_steps`` is below 1.
    """
    if name not in _TABLES:
        raise UnknownSamplerError(f"expected one of {', '.join(SAMPLERS)}; found {name!r}")
    if num_steps < 1:
        raise OutOfRangeError(f"expected num_steps of at least 1, found {num_steps}")
    process = process or Interpolant()
    if not isinstance(process, Interpolant):
        raise UnknownSamplerError(f"no sampler is known for processes of kind {process.kind!r}")
    return _TABLES[name](num_steps, process)


def euler(num_steps: int, process: Interpolant) -> Plan:
    """Follow the velocity: first order, one evaluation per step."""
    times, dt = _uniform_grid(num_steps)
    return _table(times, velocity=dt)


def heun(num_steps: int, process: Interpolant) -> Plan:
    """Correct each Euler step with the velocity at its end: second order, two evaluations.

    The last step stays Euler's, because its end, t = 0, is no noise level.
    """
    times, dt = _uniform_grid(num_steps)
    evaluation = np.arange(2 * num_steps - 1)
    correct = evaluation % 2 == 1
    step = dt[evaluation // 2]
    return _table(
        times[(evaluation + 1) // 2],
        current=np.where(correct, 0.0, 1.0),
        base=np.where(correct, 1.0, 0.0),
        velocity=np.where(correct, step / 2, step),
        previous=np.where(correct, step / 2, 0.0),
        commit=correct | (evaluation == evaluation[-1]),
    )


def ab2(num_steps: int, process: Interpolant) -> Plan:
    """Two-step Adams-Bashforth: second order with one evaluation per step; starts with Euler."""
    return adams_bashforth(*_uniform_grid(num_steps))


def adams_bashforth(times: Column, dt: Column) -> Plan:
    """Tabulate two-step Adams-Bashforth for any grid (Hairer, Nørsett, Wanner, section III.5)."""
    ratio = np.zeros_like(dt)
    ratio[1:] = dt[1:] / dt[:-1]
    return _table(times, velocity=dt * (1 + ratio / 2), previous=-dt * ratio / 2)


def euler_maruyama(num_steps: int, process: Interpolant) -> Plan:
    """Integrate the reverse SDE with diffusion w = 2 t (SiT, eq. 10); the last step adds no noise.

    dx = (v - w/2 s) dt + sqrt(w) dW with the score s = a v + c x, which gives
    x <- (1 - t c dt) x + (1 - t a) dt v + sqrt(w |dt|) eps. The grid is that of GMem v1: evenly
    spaced from 1 to `LAST_SDE_TIME`, then one step to 0.
    """
    times = np.linspace(1.0, LAST_SDE_TIME, num_steps)
    dt = np.diff(times, append=0.0)
    s = score(process, torch.from_numpy(times))
    noise = np.sqrt(2 * times * -dt)
    noise[-1] = 0.0
    return _table(
        times,
        current=1 - times * s.state.numpy() * dt,
        velocity=(1 - times * s.prediction.numpy()) * dt,
        noise=noise,
    )


def integrate(
    plan: Plan,
    velocity: Callable[[Tensor, float], Tensor],
    x0: Tensor,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Take a whole batch from noise to data.

    Args:
        plan: The sampler.
        velocity: The network: the float64 state and the time to the velocity, in any dtype.
        x0: Normal noise ``(N, C, S, S)``.
        noise: For a plan with noise: the fresh noise of evaluation k, in the shape of ``x0``.

    Returns:
        float64, in the shape of ``x0``.

    Raises:
        InvalidRequestError: The plan needs ``noise`` and there is none.
    """
    if noise is None and plan.noise.any():
        raise InvalidRequestError("expected a noise source for a plan that adds noise, found none")
    x = base = x0.to(torch.float64)
    previous = torch.zeros_like(x)
    for k in range(len(plan)):
        v = velocity(x, float(plan.times[k])).to(torch.float64)
        x = plan.current[k] * x + plan.base[k] * base + plan.velocity[k] * v
        x = x + plan.previous[k] * previous
        if noise is not None and plan.noise[k]:
            x = x + plan.noise[k] * noise(k).to(torch.float64)
        previous = v
        base = x if plan.commit[k] else base
    return x


def _uniform_grid(num_steps: int) -> tuple[Column, Column]:
    grid = np.linspace(1.0, 0.0, num_steps + 1)
    return grid[:-1], np.diff(grid)


def _table(
    times: Column,
    *,
    velocity: Column,
    current: Column | float = 1.0,
    base: Column | float = 0.0,
    previous: Column | float = 0.0,
    noise: Column | float = 0.0,
    commit: NDArray[np.bool_] | bool = True,
) -> Plan:
    def column(value: Column | float) -> Column:
        return np.array(np.broadcast_to(value, times.shape), dtype=np.float64)

    return Plan(
        times=times,
        current=column(current),
        base=column(base),
        velocity=velocity,
        previous=column(previous),
        noise=column(noise),
        commit=np.array(np.broadcast_to(commit, times.shape)),
    )


_TABLES: dict[str, Callable[[int, Interpolant], Plan]] = {
    "euler": euler,
    "heun": heun,
    "ab2": ab2,
    "euler-maruyama": euler_maruyama,
}

SAMPLERS: tuple[str, ...] = tuple(_TABLES)
