"""Layers that keep the magnitude of activations (EDM2, arXiv 2312.02696, appendix B).

Whatever enters with unit variance leaves with it: no layer needs a bias, a group norm or a learned
gain to hold activations in range, and weights are used through their direction only.

Shape suffixes: N rows, C channels, S side.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

EPSILON = 1e-4
SILU_MAGNITUDE = 0.596
"""Root mean square of silu(x) for standard normal x (equation 81)."""

Resampling = Literal["keep", "down", "up"]


def normalize(x: Tensor, dim: int | None = None) -> Tensor:
    """Bring ``x`` to a root mean square of 1 along ``dim``, by default per entry of the first axis.

    The root mean square is computed in float32 or better.
    """
    dims = list(range(1, x.ndim)) if dim is None else [dim]
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(precise, dim=dims, keepdim=True)
    rms = length * math.sqrt(length.numel() / x.numel())
    return x / (EPSILON + rms).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Equation 81: SiLU, scaled to unit magnitude."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Equation 88: a (1 - t) + b t, scaled to the magnitude of independent ``a`` and ``b``."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a_NCSS: Tensor, b_NCSS: Tensor, t: float) -> Tensor:
    """Equation 103: both along the channels, of which ``b`` contributes the share ``t``."""
    a_channels, b_channels = a_NCSS.shape[1], b_NCSS.shape[1]
    scale = math.sqrt(a_channels + b_channels) / math.hypot(1 - t, t)
    a_NCSS = a_NCSS * (scale * (1 - t) / math.sqrt(a_channels))
    return torch.cat([a_NCSS, b_NCSS * (scale * t / math.sqrt(b_channels))], dim=1)


def resample(x_NCSS: Tensor, mode: Resampling) -> Tensor:
    """Halve the side by averaging 2 x 2 values, or double it by repeating each value."""
    if mode == "down":
        return F.avg_pool2d(x_NCSS, 2)
    if mode == "up":
        return F.interpolate(x_NCSS, scale_factor=2, mode="nearest")
    return x_NCSS


class MPFourier(nn.Module):
    """Random Fourier features of a scalar (equation 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=generator))

    def forward(self, x_N: Tensor) -> Tensor:
        """Return ``(N, channels)``."""
        angle = x_N[:, None].to(torch.float32) * self.freqs.float() + self.phases.float()
        return (math.sqrt(2) * angle.cos()).to(x_N.dtype)


class MPConv(nn.Module):
    """A convolution without bias, or with ``kernel`` 0 a linear layer (equation 47).

    It uses normalised weights. Training normalises the stored ones, too, by `normalize_stored`
    before every step; they would grow otherwise and so lower the effective learning rate.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 0,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = (out_channels, in_channels, *((kernel, kernel) if kernel else ()))
        self.weight = nn.Parameter(torch.randn(shape, generator=generator))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Return ``gain`` times the layer's output for ``(N, C, S, S)`` or ``(N, C)``."""
        fan_in = self.weight[0].numel()
        weight = (normalize(self.weight) * (gain / math.sqrt(fan_in))).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        # oneDNN chooses its algorithm by the number of images. One at a time, each gets the same
        # bits in any company; a batch takes 10 to 30 % longer so.
        parts = x.split(1) if x.device.type == "cpu" and not self.training else (x,)
        return torch.cat([F.conv2d(part, weight, padding=weight.shape[-1] // 2) for part in parts])

    @torch.no_grad()
    def normalize_stored(self) -> None:
        """Bring the stored weights to unit magnitude: forced weight normalisation (equation 66)."""
        self.weight.copy_(normalize(self.weight))
