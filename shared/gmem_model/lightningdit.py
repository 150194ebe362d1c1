"""LightningDiT (arXiv 2501.01423) under a memory snippet: the network of GMem's second version.

SiT with the layers of today's language models: RMS norm, gated MLP, rotary positions (beside the
table of SiT). The parameters carry the names of the published checkpoints.

Shape suffixes as in `gmem_model.transformer`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.embeddings import rotary_table, rotate
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
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LightningDiTArchitecture

SNIPPET_DROPOUT = 0.4
"""Share of the unit snippet's entries that GMem v2 drops in training."""


class RotaryEmbed(nn.Module):
    """Turn queries and keys by their token's place (rotary embedding, arXiv 2104.09864, in 2-D)."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_width: int, grid: int) -> None:
        super().__init__()
        cos_TK, sin_TK = rotary_table(head_width, grid)
        self.register_buffer("freqs_cos", cos_TK)
        self.register_buffer("freqs_sin", sin_TK)

    def forward(self, x_NHTK: Tensor) -> Tensor:
        """Return the turned ``(N, H, T, K)``."""
        return rotate(x_NHTK, self.freqs_cos, self.freqs_sin)


class SwiGLU(nn.Module):
    """Gated MLP (arXiv 2002.05202); two thirds of the hidden width keep the number of weights."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = int(2 / 3 * hidden)
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return ``(N, T, D)``."""
        gate, value = self.w12(x_NTD).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """Transformer block with adaptive norm, whose modulation may do without shifts."""

    def __init__(self, a: LightningDiTArchitecture) -> None:
        super().__init__()
        width, norm = a.hidden_size, _norm(a)
        self.norm1 = norm(width)
        self.attn = Attention(width, a.num_heads, _qk_norm(a))
        self.norm2 = norm(width)
        self.mlp = (SwiGLU if a.swiglu else Mlp)(width, int(width * a.mlp_ratio))
        self.shift = a.shift
        self.adaLN_modulation = adaptive_layer(width, 6 if a.shift else 4)

    def forward(
        self, x_NTD: Tensor, modulation_NM: Tensor, turn: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """Return ``(N, T, D)``; ``modulation_NM`` is what ``adaLN_modulation`` gave."""
        vectors = modulation_NM.unsqueeze(1)
        if self.shift:
            shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = vectors.chunk(6, -1)
        else:
            scale_attn, gate_attn, scale_mlp, gate_mlp = vectors.chunk(4, -1)
            shift_attn = shift_mlp = torch.zeros_like(scale_attn)
        attended = self.attn(modulate(self.norm1(x_NTD), shift_attn, scale_attn), turn)
        x_NTD = x_NTD + gate_attn * attended
        return x_NTD + gate_mlp * self.mlp(modulate(self.norm2(x_NTD), shift_mlp, scale_mlp))


class LightningDiT(Transformer):
    """Predicts the velocity of a noisy latent, given its time and a memory snippet.

    Args:
        architecture: Sizes and variants.
        generator: Source of the initial weights; torch's global one by default.

    Raises:
        InvalidRequestError: The sizes do not fit each other.
    """

    architecture: LightningDiTArchitecture

    def __init__(
        self, architecture: LightningDiTArchitecture, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(architecture, generator=generator)
        a = architecture
        self.condition_projection = SnippetEmbed(a.condition, a.hidden_size)
        self.feat_rope = RotaryEmbed(*_rotary_sizes(a)) if a.rope else None
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.projector = projectors(a)
        self.final_layer = final_layer(a, _norm(a))
        self.initialize(generator)

    @property
    def aligned(self) -> nn.ModuleList:
        """The projectors."""
        return self.projector

    def keep_mask(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the training mask of the entries of n snippets, float32 ``(n, F)``: 1 keeps one."""
        draw = torch.rand(n, self.architecture.condition.dimension, generator=generator)
        return (draw >= SNIPPET_DROPOUT).float()

    def derived_weights(self) -> dict[str, Tensor]:
        """Return the rotary tables, which follow from the sizes; some files lack them."""
        if self.feat_rope is None:
            return {}
        cos_TK, sin_TK = rotary_table(*_rotary_sizes(self.architecture))
        return {"feat_rope.freqs_cos": cos_TK, "feat_rope.freqs_sin": sin_TK}

    def _embed(self, condition: Tensor, keep: Tensor | None) -> Tensor:
        factors = 1.0 if keep is None else keep / (1 - SNIPPET_DROPOUT)
        return self.condition_projection(condition, factors)

    def _run(self, block: nn.Module, x_NTD: Tensor, modulation_NM: Tensor) -> Tensor:
        return block(x_NTD, modulation_NM, self.feat_rope)


def _norm(a: LightningDiTArchitecture) -> Callable[[int], nn.Module]:
    return partial(nn.RMSNorm, eps=1e-6) if a.rmsnorm else layer_norm


def _qk_norm(a: LightningDiTArchitecture) -> Callable[[int], nn.Module]:
    if not a.qk_norm:
        return nn.Identity
    return partial(nn.RMSNorm, eps=1e-6) if a.rmsnorm else partial(nn.LayerNorm, eps=1e-5)


def _rotary_sizes(a: LightningDiTArchitecture) -> tuple[int, int]:
    """Return the width of a head and the side of the grid of tokens."""
    head_width = a.hidden_size // a.num_heads
    if head_width % 4:
        raise InvalidRequestError(
            f"expected a head width divisible by 4 for rotary positions, found {head_width}: "
            "choose another hidden_size or num_heads, or rope=False"
        )
    return head_width, a.input_size // a.patch_size
