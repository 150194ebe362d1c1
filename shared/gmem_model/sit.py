"""SiT, the scalable interpolant transformer (arXiv 2401.08740), under a label or a memory snippet.

GMem (arXiv 2412.08781) replaces the class label of SiT by one vector out of a memory bank; REPA
(arXiv 2410.06940) adds projectors that are trained to meet the features of another network. The
parameters carry the names of the published checkpoints of all three.

Shape suffixes as in `gmem_model.transformer`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gmem_model.transformer import (
    Attention,
    Mlp,
    SnippetEmbed,
    Transformer,
    adaptive_layer,
    final_layer,
    layer_norm,
    modulate,
    projectors,
)
from gmem_shared.model_config import LabelCondition, SiTArchitecture

SNIPPET_DROPOUT = 0.2
"""Share of the embedded snippet's entries that GMem v1 drops in training."""


class LabelEmbed(nn.Module):
    """Embed a class id; the last line of the table, which -1 stands for, means no class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels_N: Tensor) -> Tensor:
        """Return ``(N, D)``."""
        # -1 modulo the length of the table is its last line.
        return self.embedding_table(labels_N % self.embedding_table.num_embeddings)


class Block(nn.Module):
    """Transformer block with adaptive layer norm (DiT, arXiv 2212.09748, "adaLN-Zero")."""

    def __init__(self, a: SiTArchitecture) -> None:
        super().__init__()
        width = a.hidden_size
        self.norm1 = layer_norm(width)
        self.attn = Attention(
            width, a.num_heads, partial(nn.LayerNorm, eps=1e-5) if a.qk_norm else nn.Identity
        )
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width, int(width * a.mlp_ratio))
        self.adaLN_modulation = adaptive_layer(width, 6)

    def forward(self, x_NTD: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return ``(N, T, D)``; ``modulation_NM`` is what ``adaLN_modulation`` gave, 6 D."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation_NM.unsqueeze(
            1
        ).chunk(6, dim=-1)
        x_NTD = x_NTD + gate_attn * self.attn(modulate(self.norm1(x_NTD), shift_attn, scale_attn))
        return x_NTD + gate_mlp * self.mlp(modulate(self.norm2(x_NTD), shift_mlp, scale_mlp))


class SiT(Transformer):
    """Predicts the velocity of a noisy latent, given its time and a memory snippet or class.

    Which end of time is data is a matter of the weights: see `gmem_shared.model_config.Process`.

    Args:
        architecture: Sizes and condition.
        generator: Source of the initial weights; torch's global one by default.

    Raises:
        InvalidRequestError: The sizes do not fit each other.
    """

    architecture: SiTArchitecture

    def __init__(
        self, architecture: SiTArchitecture, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(architecture, generator=generator)
        a = architecture
        if isinstance(a.condition, LabelCondition):
            self.y_embedder = LabelEmbed(a.condition.num_classes, a.hidden_size)
        else:
            self.condition_projection = SnippetEmbed(a.condition, a.hidden_size)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.projectors = projectors(a)
        self.final_layer = final_layer(a, layer_norm)
        self.initialize(generator)

    @property
    def aligned(self) -> nn.ModuleList:
        """The projectors."""
        return self.projectors

    def keep_mask(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the training mask of n embedded snippets, float32 ``(n, D)``: 1 keeps an entry."""
        draw = torch.rand(n, self.architecture.hidden_size, generator=generator)
        return (draw >= SNIPPET_DROPOUT).float()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the weights so that every block begins as the identity, the velocity as zero."""
        super().initialize(generator)
        if isinstance(self.architecture.condition, LabelCondition):
            table = self.y_embedder.embedding_table.weight
            nn.init.normal_(table, std=0.02, generator=generator)
        for module in [*self.modulation_layers(), self.final_layer.linear]:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def _embed(self, condition: Tensor, keep: Tensor | None) -> Tensor:
        takes_label = isinstance(self.architecture.condition, LabelCondition)
        embedded_ND = (self.y_embedder if takes_label else self.condition_projection)(condition)
        return embedded_ND if keep is None else embedded_ND * keep / (1 - SNIPPET_DROPOUT)
