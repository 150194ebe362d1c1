"""The U-Net of EDM2 (arXiv 2312.02696, figure 21, "config G").

Noise level and class act through one number per channel of each block. These are the network's
modulation; the layers below map images under them. Parameters carry the published names.

Shape suffixes: N rows, C channels, S side, E width of the embedding, H heads, T = S² positions,
K = C/H channels of a head.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.edm2.layers import (
    MPConv,
    MPFourier,
    Resampling,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)
from gmem_shared.model_config import EDM2Architecture, LabelCondition


class Block(nn.Module):
    """Residual block, in the encoder's form or the decoder's, optionally with self-attention."""

    def __init__(
        self,
        architecture: EDM2Architecture,
        in_channels: int,
        out_channels: int,
        flavor: Literal["enc", "dec"],
        *,
        resampling: Resampling = "keep",
        attention: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.architecture, self.flavor, self.resampling = architecture, flavor, resampling
        self.out_channels = out_channels
        self.num_heads = out_channels // architecture.channels_per_head if attention else 0

        def conv(channels: int, outputs: int, kernel: int) -> MPConv:
            return MPConv(channels, outputs, kernel, generator=generator)

        inner = out_channels if flavor == "enc" else in_channels
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = conv(inner, out_channels, 3)
        self.emb_linear = conv(embedding_width(architecture), out_channels, 0)
        self.conv_res1 = conv(out_channels, out_channels, 3)
        widens = in_channels != out_channels
        self.conv_skip = conv(in_channels, out_channels, 1) if widens else None
        self.attn_qkv = conv(out_channels, 3 * out_channels, 1) if attention else None
        self.attn_proj = conv(out_channels, out_channels, 1) if attention else None

    def scale(self, embedding_NE: Tensor) -> Tensor:
        """Return this block's modulation ``(N, C)``."""
        return self.emb_linear(embedding_NE, gain=self.emb_gain) + 1

    def forward(self, x_NCSS: Tensor, scale_NC: Tensor) -> Tensor:
        """Return ``(N, C, S, S)``; ``scale_NC`` is what `scale` gave."""
        a = self.architecture
        x_NCSS = resample(x_NCSS, self.resampling)
        if self.flavor == "enc":
            x_NCSS = normalize(self._skip(x_NCSS), dim=1)
        y_NCSS = self.conv_res0(mp_silu(x_NCSS))
        y_NCSS = mp_silu(y_NCSS * scale_NC[:, :, None, None].to(y_NCSS.dtype))
        y_NCSS = self.conv_res1(F.dropout(y_NCSS, a.dropout, self.training))
        if self.flavor == "dec":
            x_NCSS = self._skip(x_NCSS)
        x_NCSS = mp_sum(x_NCSS, y_NCSS, a.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            attended_NCSS = self.attn_proj(self._attend(self.attn_qkv(x_NCSS)))
            x_NCSS = mp_sum(x_NCSS, attended_NCSS, a.attn_balance)
        return x_NCSS if a.clip_act is None else x_NCSS.clamp(-a.clip_act, a.clip_act)

    def _skip(self, x_NCSS: Tensor) -> Tensor:
        return x_NCSS if self.conv_skip is None else self.conv_skip(x_NCSS)

    def _attend(self, qkv_NCSS: Tensor) -> Tensor:
        # The published weights have query, key and value as the fastest of the channels' axes.
        qkv_NHK3T = qkv_NCSS.flatten(2).unflatten(1, (self.num_heads, -1, 3))
        q_NHTK, k_NHTK, v_NHTK = normalize(qkv_NHK3T, dim=2).transpose(2, 4).unbind(3)
        out_NHTK = F.scaled_dot_product_attention(q_NHTK, k_NHTK, v_NHTK)
        return out_NHTK.transpose(2, 3).reshape(len(qkv_NCSS), -1, *qkv_NCSS.shape[2:])


class UNet(nn.Module):
    """Maps scaled noisy images to the network's raw output."""

    def __init__(
        self, architecture: EDM2Architecture, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        a = self.architecture = architecture
        width = embedding_width(a)
        noise_width = a.model_channels * (a.channel_mult_noise or a.channel_mult[0])
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = MPFourier(noise_width, generator=generator)
        self.emb_noise = MPConv(noise_width, width, generator=generator)
        self.emb_label = (
            MPConv(a.condition.num_classes, width, generator=generator)
            if isinstance(a.condition, LabelCondition)
            else None
        )
        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()
        skips = self._build_encoder(generator)
        self._build_decoder(skips, generator)
        channels = a.model_channels * a.channel_mult[0]
        self.out_conv = MPConv(channels, a.in_channels, 3, generator=generator)

    @property
    def blocks(self) -> list[Block]:
        """Every block, in the order of use."""
        layers = [*self.enc.values(), *self.dec.values()]
        return [layer for layer in layers if isinstance(layer, Block)]

    def embed(self, c_noise_N: Tensor, labels_N: Tensor) -> Tensor:
        """Return the embedding ``(N, E)`` of noise levels and class ids; -1 is no class."""
        embedding_NE = self.emb_noise(self.emb_fourier(c_noise_N))
        condition = self.architecture.condition
        if self.emb_label is not None and isinstance(condition, LabelCondition):
            classes = condition.num_classes
            # Shifted by one so that -1 falls into a column that is cut off: an all-zero row.
            one_hot = F.one_hot(labels_N.long() + 1, classes + 1)[:, 1:].to(embedding_NE.dtype)
            label_NE = self.emb_label(one_hot * math.sqrt(classes))
            embedding_NE = mp_sum(embedding_NE, label_NE, self.architecture.label_balance)
        return mp_silu(embedding_NE)

    def forward(self, x_NCSS: Tensor, scales: list[Tensor]) -> Tensor:
        """Return ``(N, C, S, S)``; ``scales`` holds each block's `Block.scale`, in order of use."""
        remaining = iter(scales)
        # A constant channel stands in for the biases that the layers do not have.
        x_NCSS = torch.cat([x_NCSS, torch.ones_like(x_NCSS[:, :1])], dim=1)
        skips = []
        for layer in self.enc.values():
            x_NCSS = layer(x_NCSS, next(remaining)) if isinstance(layer, Block) else layer(x_NCSS)
            skips.append(x_NCSS)
        for name, layer in self.dec.items():
            if "_block" in name:
                x_NCSS = mp_cat(x_NCSS, skips.pop(), self.architecture.concat_balance)
            x_NCSS = layer(x_NCSS, next(remaining))
        return self.out_conv(x_NCSS, gain=self.out_gain)

    def _build_encoder(self, generator: torch.Generator | None) -> list[int]:
        """Add the encoder's layers; return the number of channels that each of them gives."""
        a = self.architecture
        skips: list[int] = []
        channels = a.in_channels + 1
        for level, (side, width) in enumerate(_levels(a)):
            if level == 0:
                self.enc[f"{side}x{side}_conv"] = MPConv(channels, width, 3, generator=generator)
                channels = width
            else:
                self.enc[f"{side}x{side}_down"] = Block(
                    a, channels, channels, "enc", resampling="down", generator=generator
                )
            skips.append(channels)
            attention = side in a.attn_resolutions
            for number in range(a.num_blocks):
                self.enc[f"{side}x{side}_block{number}"] = Block(
                    a, channels, width, "enc", attention=attention, generator=generator
                )
                channels = width
                skips.append(channels)
        return skips

    def _build_decoder(self, skips: list[int], generator: torch.Generator | None) -> None:
        a = self.architecture
        channels = skips[-1]
        for level, (side, width) in reversed(list(enumerate(_levels(a)))):
            if level == len(a.channel_mult) - 1:
                for number, attention in enumerate((True, False)):
                    self.dec[f"{side}x{side}_in{number}"] = Block(
                        a, channels, channels, "dec", attention=attention, generator=generator
                    )
            else:
                self.dec[f"{side}x{side}_up"] = Block(
                    a, channels, channels, "dec", resampling="up", generator=generator
                )
            attention = side in a.attn_resolutions
            for number in range(a.num_blocks + 1):
                inputs = channels + skips.pop()
                self.dec[f"{side}x{side}_block{number}"] = Block(
                    a, inputs, width, "dec", attention=attention, generator=generator
                )
                channels = width


def embedding_width(architecture: EDM2Architecture) -> int:
    """E, the width of the embedding of noise level and class."""
    multiplier = architecture.channel_mult_emb or max(architecture.channel_mult)
    return architecture.model_channels * multiplier


def _levels(a: EDM2Architecture) -> list[tuple[int, int]]:
    """Return side and channels of every level, the finest first."""
    return [(a.input_size >> k, a.model_channels * m) for k, m in enumerate(a.channel_mult)]
