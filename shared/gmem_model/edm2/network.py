"""The preconditioned network of EDM2: noisy image in, denoised image out.

Shape suffixes: N rows, C channels and S side of the image, M modulation values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gmem_model.edm2.layers import MPConv, MPFourier
from gmem_model.edm2.unet import UNet
from gmem_model.network import Network
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import EDM2Architecture


class Preconditioning(NamedTuple):
    """Scales that keep input, output and target at unit variance (EDM, arXiv 2206.00364, table 1).

    Each is a tensor with one value per noise level.
    """

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor

    @classmethod
    def at(cls, sigma: Tensor, sigma_data: float) -> Preconditioning:
        """Return the scales at noise levels ``sigma``, for data of the deviation ``sigma_data``."""
        # Rows that only fill a batch up have sigma 0, whose logarithm would spoil gradients.
        sigma = sigma.clamp(min=torch.finfo(torch.float32).tiny)
        total = (sigma**2 + sigma_data**2).sqrt()
        return cls(
            skip=(sigma_data / total) ** 2,
            out=sigma * sigma_data / total,
            input=1 / total,
            noise=sigma.log() / 4,
        )


class EDM2(Network):
    """Predicts the denoised image, given a noisy one, its noise level sigma and its class.

    The time of `Network` is sigma here. A modulation consists of c_skip, c_out and c_in, followed
    by one scale per channel of each block of the U-Net.

    Args:
        architecture: Sizes and condition.
        generator: Source of the initial weights; torch's global one by default.

    Raises:
        InvalidRequestError: The sizes do not fit each other.
    """

    architecture: EDM2Architecture

    def __init__(
        self, architecture: EDM2Architecture, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(architecture, generator=generator)
        _check_sizes(architecture)
        self.architecture = architecture
        self.unet = UNet(architecture, generator=generator)
        self.logvar_fourier = MPFourier(architecture.logvar_channels, generator=generator)
        self.logvar_linear = MPConv(architecture.logvar_channels, 1, generator=generator)

    @property
    def modulation_width(self) -> int:
        """M, the number of modulation values of one (sigma, class) pair."""
        return 3 + sum(self._block_widths())

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return the denoised images ``(N, C, S, S)`` for noisy ones under given modulations."""
        coefficients_N3, *scales = modulation_NM.split([3, *self._block_widths()], dim=1)
        c_skip, c_out, c_in = coefficients_N3[:, :, None, None, None].unbind(1)
        return c_skip * x_NCSS + c_out * self.unet(c_in * x_NCSS, scales)

    def log_variance(self, sigma_N: Tensor) -> Tensor:
        """Return the logarithm of the expected loss at noise levels, ``(N, 1, 1, 1)``.

        It serves training only, to balance the noise levels (section 2.2, equations 14 and 15).
        """
        c_noise = self._scales_at(sigma_N).noise
        return self.logvar_linear(self.logvar_fourier(c_noise))[:, :, None, None]

    def normalize_weights(self) -> None:
        """Bring all stored weights to unit magnitude, as training does before every step."""
        for module in self.modules():
            if isinstance(module, MPConv):
                module.normalize_stored()

    def unpadded_modulation(
        self, t_N: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Return ``(N, M)``; see `Network.modulation`."""
        if keep is not None:
            raise InvalidRequestError("expected no condition mask for EDM2, which has no use of it")
        c = self._scales_at(t_N)
        embedding_NE = self.unet.embed(c.noise, condition)
        scales = [block.scale(embedding_NE) for block in self.unet.blocks]
        return torch.cat([torch.stack([c.skip, c.out, c.input], dim=1), *scales], dim=1)

    def _scales_at(self, sigma_N: Tensor) -> Preconditioning:
        dtype = torch.promote_types(self.unet.out_gain.dtype, torch.float32)
        return Preconditioning.at(sigma_N.to(dtype), self.architecture.sigma_data)

    def _block_widths(self) -> list[int]:
        return [block.out_channels for block in self.unet.blocks]


def _check_sizes(a: EDM2Architecture) -> None:
    halvings = len(a.channel_mult) - 1
    if a.input_size % 2**halvings:
        raise InvalidRequestError(
            f"expected an input_size divisible by {2**halvings}, for it is halved {halvings} "
            f"times; found {a.input_size}"
        )
    lowest = a.input_size >> halvings
    attending = {
        a.model_channels * multiplier
        for level, multiplier in enumerate(a.channel_mult)
        if (side := a.input_size >> level) in a.attn_resolutions or side == lowest
    }
    unfit = sorted(channels for channels in attending if channels % a.channels_per_head)
    if unfit:
        raise InvalidRequestError(
            f"expected levels with attention to have a multiple of {a.channels_per_head} channels "
            f"(channels_per_head), found {', '.join(map(str, unfit))}"
        )
