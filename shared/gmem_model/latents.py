"""What networks sample: named latent spaces, and their scaling of an autoencoder's latents.

Every family centres and scales the autoencoder's latent per channel so that a network meets about
zero mean and a fixed variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import (
    AutoencoderArchitecture,
    AutoencoderSpace,
    LatentSpace,
    PixelSpace,
)


@dataclass(frozen=True, slots=True)
class LatentScaling:
    """network latent = (autoencoder latent - mean) / std, per channel.

    Attributes:
        mean, std: float32 ``(1, C, 1, 1)``, or ``(1, 1, 1, 1)`` for all channels alike.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, space: LatentSpace) -> LatentScaling:
        """Return the scaling of a latent space; pixels stay as they are."""
        if isinstance(space, PixelSpace):
            return cls(_per_channel(0.0), _per_channel(1.0))
        return cls(_per_channel(*space.mean), _per_channel(*space.std))

    @classmethod
    def measure(cls, latents: Tensor, multiplier: float = 1.0) -> LatentScaling:
        """Measure autoencoder latents ``(N, C, H, W)``; the unbiased std becomes ``multiplier``."""
        mean = latents.mean(dim=(0, 2, 3), keepdim=True)
        return cls(mean, latents.std(dim=(0, 2, 3), keepdim=True) / multiplier)

    def to_network(self, latents: Tensor) -> Tensor:
        """Scale autoencoder latents ``(N, C, H, W)`` for the network."""
        return (latents - self.mean.to(latents.device)) / self.std.to(latents.device)

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Scale sampled latents ``(N, C, H, W)`` for the decoder."""
        return latents * self.std.to(latents.device) + self.mean.to(latents.device)


def _per_channel(*values: float) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


_SD_VAE = AutoencoderArchitecture()
_VA_VAE = AutoencoderArchitecture(
    channel_mult=(1, 1, 2, 2, 4), attn_resolutions=(16,), z_channels=32
)

LATENT_SPACES: dict[str, LatentSpace] = {
    "pixels": PixelSpace(),
    "edm2-rgb": PixelSpace(eight_bit="sit"),
    # Stable Diffusion's autoencoder as GMem v1 and REPA use it, and SiT, which rounds otherwise.
    "sd-vae": AutoencoderSpace(autoencoder=_SD_VAE, std=(1 / 0.18215,), eight_bit="gmem-v1"),
    "sd-vae-sit": AutoencoderSpace(autoencoder=_SD_VAE, std=(1 / 0.18215,), eight_bit="sit"),
    # The same as EDM2 uses it: fed with images in [0, 1], scaled to a std of 0.5.
    "edm2-sd-vae": AutoencoderSpace(
        autoencoder=_SD_VAE,
        mean=(5.81, 3.25, 0.12, -2.15),
        std=(4.17 / 0.5, 4.62 / 0.5, 3.71 / 0.5, 3.28 / 0.5),
        eight_bit="edm2-latent",
    ),
    # GMem v2. Its scaling is measured on the training set and comes as a file.
    "va-vae": AutoencoderSpace(autoencoder=_VA_VAE, eight_bit="sit"),
}


def latent_space(
    name: str,
    *,
    autoencoder: AutoencoderArchitecture | None = None,
    scaling: LatentScaling | None = None,
) -> LatentSpace:
    """Return a named latent space.

    Args:
        name: One of `LATENT_SPACES`.
        autoencoder: Sizes other than the published ones.
        scaling: Measured mean and std in place of the published ones.

    Raises:
        InvalidRequestError: No latent space has this name; ``pixels`` with an autoencoder or a
            scaling; or a scaling of other channels than the autoencoder's.
    """
    if name not in LATENT_SPACES:
        raise InvalidRequestError(f"expected one of {', '.join(LATENT_SPACES)}; found {name!r}")
    changes: dict[str, Any] = {}
    if autoencoder is not None:
        changes["autoencoder"] = autoencoder
    if scaling is not None:
        changes["mean"] = tuple(scaling.mean.flatten().tolist())
        changes["std"] = tuple(scaling.std.flatten().tolist())
    space = LATENT_SPACES[name]
    try:
        return type(space).model_validate(space.model_dump() | changes)
    except ValueError as error:
        raise InvalidRequestError(f"{name} cannot be changed so: {error}") from error
