"""DINOv2 (arXiv 2304.07193): the vision transformer whose CLS token is GMem's snippet.

The parameters carry the names of the published torch hub files (``dinov2_vitb14_pretrain.pth``),
which timm shares.

Shape suffixes: N images, T tokens, D width of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.embeddings import resample_position_table
from gmem_model.encoders.encoder import EncoderNetwork, Features
from gmem_model.preprocessing import dinov2_input
from gmem_model.transformer import Attention, PatchEmbed

VITB14 = {"width": 768, "depth": 12, "num_heads": 12}
PUBLISHED_VITB14 = "dinov2-vitb14:published:imagenet-224-per-256"
"""Id of ViT-B/14 as published: the networks and banks of GMem name their encoder, not its file."""


class Mlp(nn.Module):
    """Two linear layers around the exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return ``(N, T, D)``."""
        return self.fc2(F.gelu(self.fc1(x_NTD)))


class LayerScale(nn.Module):
    """A learned factor per entry (arXiv 2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return ``(N, T, D)``."""
        return x_NTD * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block whose branches are scaled."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return ``(N, T, D)``."""
        x_NTD = x_NTD + self.ls1(self.attn(self.norm1(x_NTD)))
        return x_NTD + self.ls2(self.mlp(self.norm2(x_NTD)))


class DinoV2(EncoderNetwork):
    """The vision transformer of DINOv2 in its sizes S, B and L.

    Args:
        width: Of a token, and of a snippet.
        depth: Number of blocks.
        num_heads: Of the attention.
        patch_size: Side of a patch in pixels.
        table_side: Side of the grid of the stored position table (published: 518 / 14); the table
            is resampled to the grid of the image.
    """

    kind = "dinov2"
    normalized = False

    def __init__(
        self, width: int, depth: int, num_heads: int, patch_size: int = 14, table_side: int = 37
    ) -> None:
        super().__init__(
            width=width,
            depth=depth,
            num_heads=num_heads,
            patch_size=patch_size,
            table_side=table_side,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + table_side**2, width))
        self.patch_embed = PatchEmbed(patch_size, 3, width)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @property
    def dimension(self) -> int:
        """Entries of a snippet."""
        return self.architecture["width"]

    @property
    def preprocessing(self) -> str:
        """Name `gmem_model.preprocessing.dinov2_input`."""
        return "imagenet-224-per-256"

    def features(self, images: Tensor) -> Features:
        """Return the CLS token and the patches' tokens, both after the last norm.

        Args:
            images: ``(n, 3, side, side)`` in [-1, 1].

        Raises:
            OutOfRangeError: The images are smaller than 256 pixels.
        """
        pixels = dinov2_input(images)
        grid = pixels.shape[-1] // self.architecture["patch_size"]
        patches_NTD = self.patch_embed(pixels)
        x_NTD = torch.cat([self.cls_token.expand(len(images), -1, -1), patches_NTD], dim=1)
        x_NTD = x_NTD + self._positions(grid)
        for block in self.blocks:
            x_NTD = block(x_NTD)
        x_NTD = self.norm(x_NTD)
        return Features(snippets=x_NTD[:, 0], tokens=x_NTD[:, 1:])

    def _positions(self, grid: int) -> Tensor:
        if grid == self.architecture["table_side"]:
            return self.pos_embed
        return resample_position_table(self.pos_embed, grid)
