"""What the engine, the samplers and the trainer know of a network, whatever its family.

A network is split in two. `Network.modulation` turns (time, condition) pairs into everything the
layers need of them; both are known before sampling begins, so a server computes it once per image.
`Network.core` maps latents under these modulations to predictions and is all that runs per step.

A condition is a tensor with one entry per row: a snippet, float32 ``(n, d)``, or a class id, int64
``(n,)``. Zeros and -1 stand for no condition.

Shape suffixes: N rows of the batch, C channels and S side of the latent, M modulation values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gmem_shared.model_config import Architecture, SnippetCondition

MODULATION_ROWS = 64
"""CPU matrix products choose their kernel by the number of rows. Modulation is therefore always
computed on this many, so that a (time, condition) pair gives the same bits in any company."""


class Network(nn.Module, ABC):
    """Predicts velocity, noise, score or image of a noisy latent, given its time and condition.

    A subclass sets ``architecture``, defines `modulation_width`, `unpadded_modulation`, `core`.
    """

    architecture: Architecture

    @abstractmethod
    def __init__(
        self, architecture: Architecture, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, latents and modulations."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, S, S."""
        a = self.architecture
        return a.in_channels, a.input_size, a.input_size

    @property
    @abstractmethod
    def modulation_width(self) -> int:
        """M, the number of modulation values of one (time, condition) pair."""

    def no_condition(self, n: int) -> Tensor:
        """Return the condition of ``n`` rows that have none."""
        condition = self.architecture.condition
        if isinstance(condition, SnippetCondition):
            return torch.zeros(n, condition.dimension)
        return torch.full((n,), -1)

    def derived_weights(self) -> dict[str, Tensor]:
        """Return the entries of the state dict that follow from the architecture.

        A file of weights may lack them.
        """
        return {}

    def forward(
        self, x_NCSS: Tensor, t_N: Tensor, condition: Tensor, *, keep: Tensor | None = None
    ) -> Tensor:
        """Return the prediction ``(N, C, S, S)`` for latents at their times and conditions."""
        return self.core(x_NCSS, self.modulation(t_N, condition, keep=keep))

    def modulation(self, t_N: Tensor, condition: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Return ``(N, M)``.

        Row i depends on pair i only, bit for bit, whatever the number of pairs. ``keep`` is a mask
        of the condition's entries that only training gives; see the families that know one.
        """
        values = (t_N, condition) if keep is None else (t_N, condition, keep)
        return in_full_chunks(self.unpadded_modulation, *values)

    @abstractmethod
    def unpadded_modulation(
        self, t_N: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Return what `modulation` does, but for the last bits, which may depend on the company."""

    @abstractmethod
    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return the prediction ``(N, C, S, S)`` for latents under given modulations."""


def in_full_chunks(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """Apply a row-wise function to chunks of exactly `MODULATION_ROWS` rows, the last one padded.

    ``function`` takes as many tensors ``(MODULATION_ROWS, …)`` as there are values.
    """
    chunks = zip(*(_full_chunks(value) for value in values), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])[: len(values[0])]


def _full_chunks(value: Tensor) -> tuple[Tensor, ...]:
    missing = -len(value) % MODULATION_ROWS
    padding = value.new_zeros((missing, *value.shape[1:]))
    return torch.cat([value, padding]).split(MODULATION_ROWS)
