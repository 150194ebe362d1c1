"""Scalings between what an autoencoder gives and what a network samples.

Every family centres and scales the autoencoder's latent per channel so that a network meets about
zero mean and a fixed variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LatentScaling:
    """network latent = (autoencoder latent - mean) / std, per channel.

    Attributes:
        mean, std: float32 ``(1, C, 1, 1)``, or ``(1, 1, 1, 1)`` for all channels alike.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def measure(cls, latents: Tensor, multiplier: float = 1.0) -> LatentScaling:
        """Measure autoencoder latents ``(N, C, H, W)``; the unbiased std becomes ``multiplier``."""
        mean = latents.mean(dim=(0, 2, 3), keepdim=True)
        return cls(mean, latents.std(dim=(0, 2, 3), keepdim=True) / multiplier)

    def to_network(self, latents: Tensor) -> Tensor:
        """Scale autoencoder latents ``(N, C, H, W)`` for the network."""
        return (latents - self.mean) / self.std

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Scale sampled latents ``(N, C, H, W)`` for the decoder."""
        return latents * self.std + self.mean


def _per_channel(*values: float) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


SD_VAE = LatentScaling(mean=_per_channel(0.0), std=_per_channel(1 / 0.18215))
"""Stable Diffusion's autoencoder as SiT, REPA and GMem v1 use it."""

EDM2_SD_VAE = LatentScaling(
    mean=_per_channel(5.81, 3.25, 0.12, -2.15),
    std=_per_channel(4.17, 4.62, 3.71, 3.28) / 0.5,
)
"""The same autoencoder as EDM2 uses it: fed with images in [0, 1], scaled to a std of 0.5."""
