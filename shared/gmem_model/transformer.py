"""What the diffusion transformers share: DiT's layers (arXiv 2212.09748) and their arrangement.

The parameters carry the names of the published checkpoints.

Shape suffixes: N rows of the batch, C channels and S side of the latent, P side of a patch,
T tokens (T = (S/P)²), D width of a token, H attention heads, K = D/H, F width of a snippet,
M modulation values of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.embeddings import position_table, time_sinusoids
from gmem_model.network import Network
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LightningDiTArchitecture, SiTArchitecture, SnippetCondition

TIME_SINUSOIDS = 256


class PatchEmbed(nn.Module):
    """Cut the latent into patches, one token each, in row-major order."""

    def __init__(self, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """Return the tokens ``(N, T, D)``."""
        # A matrix product where the published code convolves: on the CPU a convolution of a row
        # gives other bits in other company.
        patches = patchify(x_NCSS, self.proj.kernel_size[0])
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


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

    def forward(self, snippets_NF: Tensor, factors_NF: Tensor | float = 1.0) -> Tensor:
        """Return ``(N, D)``; a zero snippet stays zero.

        Args:
            snippets_NF: Snippets as stored in the bank.
            factors_NF: The entries of the unit snippet are multiplied by these (dropout).
        """
        precise = snippets_NF.to(torch.promote_types(snippets_NF.dtype, torch.float32))
        unit = F.normalize(precise, dim=-1, eps=1e-12) * self.scale * factors_NF
        return self.linear(unit.to(self.linear.weight.dtype))


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys may be normalised and turned by position."""

    def __init__(
        self, width: int, num_heads: int, qk_norm: Callable[[int], nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = qk_norm(width // num_heads)
        self.k_norm = qk_norm(width // num_heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x_NTD: Tensor, turn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return ``(N, T, D)``; ``turn`` maps queries and keys ``(N, H, T, K)`` to their like."""
        qkv = self.qkv(x_NTD).unflatten(-1, (3, self.num_heads, -1))
        q_NHTK, k_NHTK, v_NHTK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q_NHTK, k_NHTK = self.q_norm(q_NHTK), self.k_norm(k_NHTK)
        if turn is not None:
            q_NHTK, k_NHTK = turn(q_NHTK), turn(k_NHTK)
        # The default scale; given, it is a constant of an exported graph.
        out_NHTK = F.scaled_dot_product_attention(q_NHTK, k_NHTK, v_NHTK, scale=self.scale)
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


def layer_norm(width: int) -> nn.LayerNorm:
    """Return the norm of DiT, which has no parameters: modulation scales and shifts instead."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def modulate(x_NTD: Tensor, shift_N1D: Tensor | float, scale_N1D: Tensor) -> Tensor:
    """Scale and shift normalised tokens by their row's modulation."""
    return x_NTD * (1 + scale_N1D) + shift_N1D


class FinalLayer(nn.Module):
    """Map every token to the values of its patch."""

    def __init__(self, width: int, patch_values: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm_final = norm(width)
        self.linear = nn.Linear(width, patch_values)
        self.adaLN_modulation = adaptive_layer(width, 2)

    def forward(self, x_NTD: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return ``(N, T, P P C)``; ``modulation_NM`` is what ``adaLN_modulation`` gave, 2 D."""
        shift, scale = modulation_NM.unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x_NTD), shift, scale))


def adaptive_layer(width: int, vectors: int) -> nn.Sequential:
    """Return the layer that makes so many modulation vectors of time and condition."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, vectors * width))


def patchify(x_NCSS: Tensor, patch_size: int) -> Tensor:
    """Cut a latent into patches ``(N, T, C P P)`` in row-major order, column fastest."""
    grid = x_NCSS.shape[-1] // patch_size
    patches = x_NCSS.unflatten(3, (grid, patch_size)).unflatten(2, (grid, patch_size))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch_size: int) -> Tensor:
    """Lay tokens ``(N, T, P P C)``, channel fastest, out as a latent ``(N, C, S, S)``."""
    n, t, _ = tokens.shape
    grid = int(t**0.5)
    patches = tokens.reshape(n, grid, grid, patch_size, patch_size, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, grid * patch_size, grid * patch_size)


def projectors(architecture: SiTArchitecture | LightningDiTArchitecture) -> nn.ModuleList:
    """Return the MLPs that map tokens to the features they are aligned with (REPA, 2410.06940)."""
    width, hidden = architecture.hidden_size, architecture.projector_dimension
    return nn.ModuleList(
        nn.Sequential(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, outputs),
        )
        for outputs in architecture.projector_outputs
    )


class Transformer(Network):
    """Patches in, adaptive blocks, patches out.

    A subclass builds ``blocks`` and ``final_layer``, then calls `initialize`; it defines `_embed`,
    `keep_mask` and `aligned`.

    Args:
        architecture: Sizes and condition.
        generator: Source of the initial weights; torch's global one by default.

    Raises:
        InvalidRequestError: The sizes do not fit each other.
    """

    architecture: SiTArchitecture | LightningDiTArchitecture
    blocks: nn.ModuleList
    final_layer: FinalLayer

    def __init__(
        self,
        architecture: SiTArchitecture | LightningDiTArchitecture,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(architecture, generator=generator)
        check_sizes(architecture)
        a = self.architecture = architecture
        positions = torch.tensor(position_table(a.hidden_size, a.input_size // a.patch_size))
        self.pos_embed = nn.Parameter(positions[None], requires_grad=False)
        self.x_embedder = PatchEmbed(a.patch_size, a.in_channels, a.hidden_size)
        self.t_embedder = TimeEmbed(a.hidden_size)

    @property
    def modulation_width(self) -> int:
        """M, the number of modulation values of one (time, condition) pair."""
        return sum(self._modulation_widths)

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
        modulations = self._split(modulation_NM)
        velocity_NCSS, features_NTD = self._core_and_features(x_NCSS, modulations)
        return velocity_NCSS, [project(features_NTD) for project in self.aligned]

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return the velocity ``(N, C, S, S)`` of latents under given modulations."""
        return self._core_and_features(x_NCSS, self._split(modulation_NM))[0]

    def fused(self, x_NCSS: Tensor, t_N: Tensor, condition: Tensor) -> Tensor:
        """Return what `forward` does, but for the last bits: no modulation is padded or joined."""
        return self._core_and_features(x_NCSS, self._modulations(t_N, condition, None))[0]

    @property
    @abstractmethod
    def aligned(self) -> nn.ModuleList:
        """The projectors, under whichever name the published checkpoints give them."""

    @abstractmethod
    def keep_mask(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the training mask of n snippets, float32: 1 keeps an entry, 0 drops it."""

    @abstractmethod
    def _embed(self, condition: Tensor, keep: Tensor | None) -> Tensor: ...

    def _run(self, block: nn.Module, x_NTD: Tensor, modulation_NM: Tensor) -> Tensor:
        return block(x_NTD, modulation_NM)

    def unpadded_modulation(
        self, t_N: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Return ``(N, M)``; see `Network.modulation`."""
        return torch.cat(self._modulations(t_N, condition, keep), dim=1)

    def modulation_layers(self) -> list[nn.Sequential]:
        """Return the adaptive layers of all blocks and of the final layer, in order."""
        layers = [*self.blocks, self.final_layer]
        return [cast("nn.Sequential", layer.adaLN_modulation) for layer in layers]

    @property
    def _modulation_widths(self) -> list[int]:
        return [cast("nn.Linear", layer[-1]).out_features for layer in self.modulation_layers()]

    def _modulations(self, t_N: Tensor, condition: Tensor, keep: Tensor | None) -> list[Tensor]:
        """Return the modulation of every layer, ``(N, …)``."""
        condition_ND = self.t_embedder(t_N) + self._embed(condition, keep)
        return [embed(condition_ND) for embed in self.modulation_layers()]

    def _split(self, modulation_NM: Tensor) -> tuple[Tensor, ...]:
        return modulation_NM.split(self._modulation_widths, dim=1)

    def _core_and_features(
        self, x_NCSS: Tensor, modulations: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        a = self.architecture
        *block_modulations, final_modulation = modulations
        x_NTD = features_NTD = self.x_embedder(x_NCSS) + self.pos_embed
        for number, block in enumerate(self.blocks, start=1):
            x_NTD = self._run(block, x_NTD, block_modulations[number - 1])
            if number == a.encoder_depth:
                features_NTD = x_NTD
        out_NCSS = unpatchify(self.final_layer(x_NTD, final_modulation), a.patch_size)
        # With learn_sigma there are twice the channels; the second half is of no use in sampling.
        return out_NCSS[:, : a.in_channels], features_NTD

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the weights as DiT does; a subclass may zero some of them afterwards."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                matrix = module.weight.view(module.weight.shape[0], -1)
                nn.init.xavier_uniform_(matrix, generator=generator)
                nn.init.zeros_(cast("nn.Parameter", module.bias))
        for module in self.t_embedder.mlp:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02, generator=generator)


def final_layer(
    architecture: SiTArchitecture | LightningDiTArchitecture, norm: Callable[[int], nn.Module]
) -> FinalLayer:
    """Return the layer that ends a network of this architecture."""
    a = architecture
    channels = a.in_channels * (2 if a.learn_sigma else 1)
    return FinalLayer(a.hidden_size, a.patch_size**2 * channels, norm)


def check_sizes(a: SiTArchitecture | LightningDiTArchitecture) -> None:
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
