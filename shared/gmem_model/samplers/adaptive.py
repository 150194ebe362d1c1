"""Sampling with steps of adaptive length, for a `Transport`; it runs alone, outside the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from gmem_model.guidance import Predict
from gmem_model.paths import drift
from gmem_model.samplers.dormand_prince import Slope, Tolerance, solve
from gmem_model.samplers.transport import DTYPE, ode_grid
from gmem_shared.model_config import Transport

DOPRI5 = "dopri5"
"""Name of the sampler."""


def dopri5(
    predict: Predict,
    x0: Tensor,
    process: Transport,
    tolerance: Tolerance | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """Take a whole batch from noise to data.

    Args:
        predict: The network; `GuidedNetwork.predictor` guides it.
        x0: Normal noise ``(N, C, S, S)``.
        process: How noise becomes data with the network.
        tolerance: Decides the lengths of the steps; SiT's by default.
        reverse: Go from data to noise.

    Returns:
        float32, in the shape of ``x0``.
    """
    start, end = ends(process, reverse=reverse)
    slope = velocity(predict, process)
    return solve(slope, x0.to(DTYPE), start, end, tolerance or Tolerance())


def ends(process: Transport, *, reverse: bool) -> tuple[float, float]:
    """Return the first and the last time of an integration of the ODE."""
    starts, steps = ode_grid(process, 2, reverse=reverse)
    return float(starts[0]), float(starts[0] + steps[0])


def velocity(predict: Predict, process: Transport) -> Slope:
    """Return the drift of the ODE, whatever it is that the network predicts."""

    def slope(x: Tensor, t: float) -> Tensor:
        f = drift(process, torch.tensor(t, dtype=torch.float64))
        return f.prediction * predict(x, t).to(x.dtype) + f.state * x

    return slope
