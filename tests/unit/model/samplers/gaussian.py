"""The exact predictions for data distributed as N(mean, std²): what a perfect network would say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmem_model.paths import coefficients
from gmem_model.samplers import BEFORE_FIRST, Plan, integrate
from gmem_shared.model_config import EDM, Process, Transport


@dataclass(frozen=True)
class GaussianData:
    process: Process
    mean: float = 0.5
    std: float = 0.8

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Predict what the process's network is asked for."""
        if isinstance(self.process, EDM):
            return self.mean + self.std**2 / (self.std**2 + t**2) * (x - self.mean)
        c = coefficients(self.process, torch.tensor(t, dtype=torch.float64))
        centred = (x - c.alpha * self.mean) / ((c.alpha * self.std) ** 2 + c.sigma**2)
        data = self.mean + c.alpha * self.std**2 * centred
        noise = c.sigma * centred
        kind = self.process.prediction if isinstance(self.process, Transport) else "velocity"
        velocity = c.d_alpha * data + c.d_sigma * noise
        return {"velocity": velocity, "noise": noise, "score": -centred}[kind]


def moments(table: Plan, data: GaussianData) -> tuple[float, float]:
    """Mean and standard deviation of the samples, without sampling.

    Under exact predictions a sample is an affine function of its independent noises, so one row
    without noise and one row per noise of size 1 tell everything.
    """
    noises = [k for k in range(BEFORE_FIRST, len(table)) if k == BEFORE_FIRST or table.noise[k]]

    def only(row: int) -> Tensor:
        x = torch.zeros(2 + len(noises), 1, 1, 1)
        x[row] = 1.0
        return x

    x = integrate(table, data, only(1), lambda k: only(2 + noises.index(k))).double()
    return x[0].item(), (x[1:] - x[0]).square().sum().sqrt().item()
