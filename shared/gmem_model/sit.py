"""SiT, the scalable interpolant transformer (arXiv 2401.08740), under a label or a memory snippet.

GMem (arXiv 2412.08781) replaces the class label of SiT by one vector out of a memory bank; REPA
(arXiv 2410.06940) adds projectors that are trained to meet the features of another network. The
parameters carry the names of the published checkpoints of all three.

Shape suffixes: N rows of the batch, C channels and S side of the latent, P side of a patch,
T tokens (T = (S/P)²), D width of a token, H attention heads, K = D/H, F width of a snippet,
M = (6 depth + 2) D modulation values.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.embeddings import position_table, time_sinusoids
from gmem_model.network import Network
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LabelCondition, SiTArchitecture, SnippetCondition

TIME_SINUSOIDS = 256
SNIPPET_DROPOUT = 0.2
"""Share of the embedded snippet's entries that GMem v1 drops in training."""


class PatchEmbed(nn.Module):
    """Cut the latent into patches, one token each, in row-major order."""

    def __init__(self, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """Return the tokens ``(N, T, D)``."""
        return self.proj(x_NCSS).flatten(2).transpose(1, 2)


class TimeEmbed(nn.Module):
    """Embed the time t in [0, 1] through sinusoids and a small MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t_N: Tensor) -> Tensor:
        """Return ``(N, D)``."""
        return self.mlp(time_sinusoids(t_N, TIME_SINUSOIDS).to(next(self.parameters()).dtype))


class SnippetEmbed(nn.Module):
    """Embed a snippet: bring it to unit length times ``scale``, then map it linearly."""

    def __init__(self, condition: SnippetCondition, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition.dimension, width)
        self.scale = condition.scale

    def forward(self, snippets_NF: Tensor) -> Tensor:
        """Return ``(N, D)``; a zero snippet stays zero."""
        precise = snippets_NF.to(torch.promote_types(snippets_NF.dtype, torch.float32))
        unit = F.normalize(precise, dim=-1, eps=1e-12)
        return self.linear((unit * self.scale).to(self.linear.weight.dtype))


class LabelEmbed(nn.Module):
    """Embed a class id; the last line of the table, which -1 stands for, means no class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels_N: Tensor) -> Tensor:
        """Return ``(N, D)``."""
        # -1 modulo the length of the table is its last line.
        return self.embedding_table(labels_N % self.embedding_table.num_embeddings)


class Attention(nn.Module):
    """Multi-head self-attention, optionally with normalised queries and keys."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_width = width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(head_width, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return ``(N, T, D)``."""
        qkv = self.qkv(x_NTD).unflatten(-1, (3, self.num_heads, -1))
        q_NHTK, k_NHTK, v_NHTK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out_NHTK = F.scaled_dot_product_attention(self.q_norm(q_NHTK), self.k_norm(k_NHTK), v_NHTK)
        return self.proj(out_NHTK.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return ``(N, T, D)``."""
        return self.fc2(F.gelu(self.fc1(x_NTD), approximate="tanh"))


def modulate(x_NTD: Tensor, shift_N1D: Tensor, scale_N1D: Tensor) -> Tensor:
    """Normalise each token, then scale and shift it by its row's modulation."""
    return F.layer_norm(x_NTD, x_NTD.shape[-1:], eps=1e-6) * (1 + scale_N1D) + shift_N1D


class Block(nn.Module):
    """Transformer block with adaptive layer norm (DiT, arXiv 2212.09748, "adaLN-Zero")."""

    def __init__(self, architecture: SiTArchitecture) -> None:
        super().__init__()
        width = architecture.hidden_size
        self.attn = Attention(width, architecture.num_heads, qk_norm=architecture.qk_norm)
        self.mlp = Mlp(width, int(width * architecture.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x_NTD: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return ``(N, T, D)``; ``modulation_NM`` is what ``adaLN_modulation`` gave, 6 D."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation_NM.unsqueeze(
            1
        ).chunk(6, dim=-1)
        x_NTD = x_NTD + gate_attn * self.attn(modulate(x_NTD, shift_attn, scale_attn))
        return x_NTD + gate_mlp * self.mlp(modulate(x_NTD, shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Map every token to the values of its patch."""

    def __init__(self, width: int, patch_values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch_values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_NTD: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return ``(N, T, P P C)``; ``modulation_NM`` is what ``adaLN_modulation`` gave, 2 D."""
        shift, scale = modulation_NM.unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(x_NTD, shift, scale))


def unpatchify(tokens: Tensor, patch_size: int) -> Tensor:
    """Lay tokens ``(N, T, P P C)``, channel fastest, out as a latent ``(N, C, S, S)``."""
    n, t, _ = tokens.shape
    grid = int(t**0.5)
    patches = tokens.reshape(n, grid, grid, patch_size, patch_size, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, grid * patch_size, grid * patch_size)


def projector(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return the MLP that maps tokens to the features they are aligned with (REPA, 2410.06940)."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )


class SiT(Network):
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
        check_sizes(architecture)
        a = self.architecture = architecture
        width = a.hidden_size
        positions = torch.tensor(position_table(width, a.input_size // a.patch_size))
        self.pos_embed = nn.Parameter(positions[None], requires_grad=False)
        self.x_embedder = PatchEmbed(a.patch_size, a.in_channels, width)
        self.t_embedder = TimeEmbed(width)
        if isinstance(a.condition, LabelCondition):
            self.y_embedder = LabelEmbed(a.condition.num_classes, width)
        else:
            self.condition_projection = SnippetEmbed(a.condition, width)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.projectors = nn.ModuleList(
            projector(width, a.projector_dimension, outputs) for outputs in a.projector_outputs
        )
        outputs = a.in_channels * (2 if a.learn_sigma else 1)
        self.final_layer = FinalLayer(width, a.patch_size**2 * outputs)
        self._initialize(generator)

    @property
    def modulation_width(self) -> int:
        """M, the number of modulation values of one (time, snippet) pair."""
        return (6 * self.architecture.depth + 2) * self.architecture.hidden_size

    def forward_with_projections(
        self, x_NCSS: Tensor, t_N: Tensor, condition: Tensor, *, keep: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the velocity and, per projector, its view of block ``encoder_depth``'s tokens.

        Args:
            x_NCSS: Noisy latents.
            t_N: Their times.
            condition: Snippets as stored in the bank, or class ids.
            keep: In training, the mask of `keep_mask`.
        """
        modulation_NM = self.modulation(t_N, condition, keep=keep)
        velocity_NCSS, features_NTD = self._core_and_features(x_NCSS, modulation_NM)
        return velocity_NCSS, [project(features_NTD) for project in self.projectors]

    def keep_mask(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the training mask of n embedded snippets: float32 ``(n, D)``, 1 keeps an entry."""
        draw = torch.rand(n, self.architecture.hidden_size, generator=generator)
        return (draw >= SNIPPET_DROPOUT).float()

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return the velocity ``(N, C, S, S)`` of latents under given modulations."""
        return self._core_and_features(x_NCSS, modulation_NM)[0]

    def _modulation(self, t_N: Tensor, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        embedded_ND = self._embed(condition)
        if keep is not None:
            embedded_ND = embedded_ND * keep / (1 - SNIPPET_DROPOUT)
        condition_ND = self.t_embedder(t_N) + embedded_ND
        return torch.cat([embed(condition_ND) for embed in self._modulation_layers()], dim=1)

    def _embed(self, condition: Tensor) -> Tensor:
        takes_label = isinstance(self.architecture.condition, LabelCondition)
        return (self.y_embedder if takes_label else self.condition_projection)(condition)

    def _modulation_layers(self) -> list[nn.Module]:
        blocks = cast("list[Block]", list(self.blocks))
        return [*(block.adaLN_modulation for block in blocks), self.final_layer.adaLN_modulation]

    def _core_and_features(self, x_NCSS: Tensor, modulation_NM: Tensor) -> tuple[Tensor, Tensor]:
        a = self.architecture
        widths = [6 * a.hidden_size] * a.depth + [2 * a.hidden_size]
        *block_modulations, final_modulation = modulation_NM.split(widths, dim=1)
        x_NTD = features_NTD = self.x_embedder(x_NCSS) + self.pos_embed
        for number, block in enumerate(self.blocks, start=1):
            x_NTD = block(x_NTD, block_modulations[number - 1])
            if number == a.encoder_depth:
                features_NTD = x_NTD
        out_NCSS = unpatchify(self.final_layer(x_NTD, final_modulation), a.patch_size)
        return out_NCSS[:, : a.in_channels], features_NTD

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                matrix = module.weight.view(module.weight.shape[0], -1)
                nn.init.xavier_uniform_(matrix, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.architecture.condition, LabelCondition):
            table = self.y_embedder.embedding_table.weight
            nn.init.normal_(table, std=0.02, generator=generator)
        for module in self.t_embedder.mlp:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
        # Every block begins as the identity and the velocity as zero ("adaLN-Zero").
        for module in [*self._modulation_layers(), self.final_layer.linear]:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


def check_sizes(a: SiTArchitecture) -> None:
    """Raise `InvalidRequestError` unless the sizes fit each other."""
    if a.input_size % a.patch_size:
        raise InvalidRequestError(
            f"expected an input_size divisible by patch_size {a.patch_size}, found {a.input_size}"
        )
    if a.hidden_size % a.num_heads or a.hidden_size % 4:
        raise InvalidRequestError(
            f"expected a hidden_size divisible by 4 and by num_heads {a.num_heads}, "
            f"found {a.hidden_size}"
        )
    if a.projector_outputs and a.encoder_depth > a.depth:
        raise InvalidRequestError(
            f"expected the projectors' encoder_depth within the depth {a.depth}, "
            f"found {a.encoder_depth}"
        )
