"""The convolutional autoencoder of latent diffusion (arXiv 2112.10752), which VA-VAE kept.

Stable Diffusion's autoencoder (8 pixels per latent) and VA-VAE (16 pixels) differ in their sizes
only. The parameters carry the names of the published checkpoints of latent diffusion.

Shape suffixes: N images, C channels, H and W sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_shared.model_config import AutoencoderArchitecture

_LOG_VARIANCE_RANGE = (-30.0, 20.0)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=32, num_channels=width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        same = width_in == width
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(width_in, width, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features in the new width."""
        hidden_NCHW = self.conv1(F.silu(self.norm1(x_NCHW)))
        hidden_NCHW = self.conv2(F.silu(self.norm2(hidden_NCHW)))
        return self.nin_shortcut(x_NCHW) + hidden_NCHW


class Attention(nn.Module):
    """Self-attention over all pixels, with a single head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``x`` plus what it attends to."""
        normal_NCHW = self.norm(x_NCHW)
        # Each (N, 1, H W, C): one head.
        q, k, v = (
            project(normal_NCHW).flatten(2).transpose(1, 2).unsqueeze(1)
            for project in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x_NCHW + self.proj_out(attended.unflatten(2, x_NCHW.shape[2:]))


class Downsample(nn.Module):
    """Halve the sides; the padding is at the right and the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``(N, C, H/2, W/2)``."""
        return self.conv(F.pad(x_NCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the sides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ``(N, C, 2 H, 2 W)``."""
        return self.conv(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks that work at one resolution, each followed by attention if the level has any."""

    def __init__(self, width_in: int, width: int, blocks: int, *, attention: bool) -> None:
        super().__init__()
        widths = [width_in] + [width] * blocks
        self.block = nn.ModuleList(ResidualBlock(widths[k], width) for k in range(blocks))
        self.attn = nn.ModuleList(Attention(width) for _ in range(blocks if attention else 0))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features in the level's width."""
        for number, block in enumerate(self.block):
            x_NCHW = block(x_NCHW)
            if self.attn:
                x_NCHW = self.attn[number](x_NCHW)
        return x_NCHW


class DownLevel(Level):
    """A level that then halves the sides, unless it is the lowest."""

    def __init__(
        self, width_in: int, width: int, blocks: int, *, attention: bool, lowest: bool
    ) -> None:
        super().__init__(width_in, width, blocks, attention=attention)
        self.downsample = nn.Identity() if lowest else Downsample(width)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features for the next level."""
        return self.downsample(super().forward(x_NCHW))


class UpLevel(Level):
    """A level that then doubles the sides, unless it is the highest."""

    def __init__(
        self, width_in: int, width: int, blocks: int, *, attention: bool, highest: bool
    ) -> None:
        super().__init__(width_in, width, blocks, attention=attention)
        self.upsample = nn.Identity() if highest else Upsample(width)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features for the next level."""
        return self.upsample(super().forward(x_NCHW))


class Middle(nn.Module):
    """What works between the lowest level and the latent."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width)
        self.attn_1 = Attention(width)
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return features of the same shape."""
        return self.block_2(self.attn_1(self.block_1(x_NCHW)))


class Encoder(nn.Module):
    """From images to the features of their latents."""

    def __init__(self, a: AutoencoderArchitecture) -> None:
        super().__init__()
        widths = _widths(a)
        self.conv_in = nn.Conv2d(a.image_channels, a.channels, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(
                widths[max(level - 1, 0)],
                width,
                a.num_res_blocks,
                attention=_attends(a, level),
                lowest=level + 1 == len(widths),
            )
            for level, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * a.z_channels, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return twice as many channels as the latent has."""
        x_NCHW = self.conv_in(x_NCHW)
        for level in self.down:
            x_NCHW = level(x_NCHW)
        return self.conv_out(F.silu(self.norm_out(self.mid(x_NCHW))))


class Decoder(nn.Module):
    """From latents to images. Level 0 has the images' resolution and comes last."""

    def __init__(self, a: AutoencoderArchitecture) -> None:
        super().__init__()
        widths = _widths(a)
        self.conv_in = nn.Conv2d(a.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            UpLevel(
                widths[min(level + 1, len(widths) - 1)],
                width,
                a.num_res_blocks + 1,
                attention=_attends(a, level),
                highest=level == 0,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], a.image_channels, 3, padding=1)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        """Return the images."""
        x_NCHW = self.mid(self.conv_in(z_NCHW))
        for level in reversed(list(self.up)):
            x_NCHW = level(x_NCHW)
        return self.conv_out(F.silu(self.norm_out(x_NCHW)))


@dataclass(frozen=True, slots=True)
class Posterior:
    """What the encoder knows of a latent: a normal distribution per entry.

    Attributes:
        mean, log_variance: ``(N, C, H, W)``.
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation ``(N, C, H, W)``."""
        return (0.5 * self.log_variance.clamp(*_LOG_VARIANCE_RANGE)).exp()

    def sample(self, noise: Tensor) -> Tensor:
        """Return the latents ``(N, C, H, W)`` that standard normal noise of that shape selects."""
        return self.mean + self.std * noise


class Autoencoder(nn.Module):
    """Images to latents and back; sides shrink by ``architecture.factor``.

    Args:
        architecture: Sizes.
    """

    def __init__(self, architecture: AutoencoderArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        channels = architecture.z_channels
        self.encoder = Encoder(architecture)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(architecture)

    def encode(self, x_NCHW: Tensor) -> Posterior:
        """Encode images, usually in [-1, 1], with sides divisible by ``architecture.factor``."""
        return Posterior(*self.quant_conv(self.encoder(x_NCHW)).chunk(2, dim=1))

    def decode(self, z_NCHW: Tensor) -> Tensor:
        """Decode latents to images of about the range that was encoded."""
        return self.decoder(self.post_quant_conv(z_NCHW))


def _widths(a: AutoencoderArchitecture) -> list[int]:
    return [a.channels * factor for factor in a.channel_mult]


def _attends(a: AutoencoderArchitecture, level: int) -> bool:
    return a.resolution >> level in a.attn_resolutions
