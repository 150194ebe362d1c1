"""Explicit Runge-Kutta methods of a linear drift, as plans.

Where the drift is F = p m + q x with a network's prediction m of the stage's state x, every stage
is a linear combination of the step's base and the predictions so far. The coefficients follow from
the method's tableau (Hairer, Nørsett, Wanner, "Solving ordinary differential equations I", II.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmem_model.paths import Combination
from gmem_model.samplers.plan import Column, Plan

Drift = Callable[[Tensor], Combination]
"""Times, float64, to the drift at them."""


@dataclass(frozen=True, slots=True)
class Tableau:
    """A method: stage i is at ``nodes[i]`` of the step and led there by ``rows[i - 1]``.

    The last row leads to the end of the step.
    """

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]


EULER = Tableau(nodes=(0.0,), rows=((1.0,),))
MIDPOINT = Tableau(nodes=(0.0, 1 / 2), rows=((1 / 2,), (0.0, 1.0)))
HEUN = Tableau(nodes=(0.0, 1.0), rows=((1.0,), (1 / 2, 1 / 2)))
HEUN3 = Tableau(nodes=(0.0, 1 / 3, 2 / 3), rows=((1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4)))
THREE_EIGHTHS = Tableau(
    nodes=(0.0, 1 / 3, 2 / 3, 1.0),
    rows=((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
)
"""Kutta's 3/8 rule of fourth order."""


def runge_kutta(
    tableau: Tableau,
    starts: Column,
    steps: Column,
    drift: Drift,
    dtype: torch.dtype = torch.float64,
) -> Plan:
    """Tabulate one step from each of ``starts`` over the signed lengths ``steps``.

    Times are rounded to ``dtype``. ``gates`` are the starts of the steps.
    """
    stages = len(tableau.nodes)
    # Of each step, how its base and each stage's prediction weigh.
    origin = state = np.eye(1, 1 + stages).repeat(len(starts), axis=0)
    slopes: list[Column] = []
    times: list[Column] = []
    states: list[Column] = []
    for stage, (node, row) in enumerate(zip(tableau.nodes, tableau.rows, strict=True)):
        t = torch.from_numpy(starts + node * steps).to(dtype).double()
        f = drift(t)
        slope = f.state.numpy()[:, None] * state
        slope[:, 1 + stage] += f.prediction.numpy()
        slopes.append(slope)
        state = origin + steps[:, None] * np.tensordot(row, slopes, axes=1)
        times.append(t.numpy())
        states.append(state)
    gates = np.repeat(starts, stages)
    return _plan(gates, np.stack(times, axis=1), np.stack(states, axis=1), dtype)


def _plan(gates: Column, times: Column, states: Column, dtype: torch.dtype) -> Plan:
    """Lay out times ``(S, stages)`` and weights ``(S, stages, 1 + stages)`` line by line."""
    stages = times.shape[1]
    previous = np.zeros((*times.shape, stages - 1))
    for stage in range(1, stages):
        previous[:, stage, :stage] = states[:, stage, stage:0:-1]
    own = np.arange(stages)
    last_stage = np.broadcast_to(own == stages - 1, times.shape)
    return Plan.tabulate(
        times.reshape(-1),
        gates=gates,
        base=states[:, :, 0].reshape(-1),
        prediction=states[:, own, 1 + own].reshape(-1),
        previous=previous.reshape(times.size, stages - 1),
        commit=last_stage.reshape(-1),
        dtype=dtype,
    )


def adams_bashforth(starts: Column, steps: Column, dtype: torch.dtype = torch.float64) -> Plan:
    """Tabulate the two-step method on any grid, for velocities (ibid., III.5)."""
    ratio = np.zeros_like(steps)
    ratio[1:] = steps[1:] / steps[:-1]
    return Plan.tabulate(
        starts,
        prediction=steps * (1 + ratio / 2),
        previous=(-steps * ratio / 2)[:, None],
        dtype=dtype,
    )
