"""From prepared shards and a memory to what the training loop reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gmem_shared.mixing import normalize
from gmem_trainer.banks import Memory
from gmem_trainer.material import Material
from gmem_trainer.preparation.shards import FLIPPED, LATENTS, TOKENS, ShardRows
from gmem_trainer.training.batches import Examples


@dataclass(frozen=True, slots=True)
class Fetched:
    """One value per example, fetched by position when a batch needs it.

    Attributes:
        fetch: Maps positions, int64 ``(k,)``, to an array ``(k, …)``.
        order: int64 ``(n,)``, the position of each example.
    """

    fetch: Callable[[NDArray[np.int64]], NDArray[Any]]
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.fetch(self.order[rows.numpy()]))


def both_sides(material: Material, name: str) -> ShardRows:
    """Return a tensor of all images, followed by that of the mirrored images if there are any."""
    rows = material.prepared.tensors[name]
    if not material.flipped:
        return rows
    return ShardRows(rows.arrays + material.prepared.tensors[name + FLIPPED].arrays)


def examples(material: Material, memory: Memory | None, num_tokens: int | None) -> Examples:
    """Return what a network is trained on, in the order of the full bank's rows.

    Args:
        material: The prepared data.
        memory: What its images are remembered by; ``None`` for a network with class labels.
        num_tokens: Of the network, if they are to be aligned with the encoder's.
    """
    prepared = material.prepared
    order = np.lexsort((prepared.source_ids, prepared.labels))
    if material.flipped:
        order = np.concatenate([order, order + len(prepared)])
    latents, scaling = both_sides(material, LATENTS), material.scaling

    def scaled(rows: NDArray[np.int64]) -> NDArray[Any]:
        return scaling.to_network(torch.from_numpy(latents[rows]).float()).numpy()

    def labels(rows: NDArray[np.int64]) -> NDArray[Any]:
        return prepared.labels[rows % len(prepared)].astype(np.int64)

    conditions = labels if memory is None else _as_served(memory, unit=material.normalized)
    features: tuple[Fetched, ...] = ()
    if num_tokens is not None:
        tokens = both_sides(material, TOKENS)
        features = (Fetched(lambda rows: on_grid(tokens[rows], num_tokens), order),)
    return Examples(Fetched(scaled, order), Fetched(conditions, order), features)


def _as_served(memory: Memory, *, unit: bool) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
    """Return what a float16 bank gives back of images, at unit length."""

    def served(rows: NDArray[np.int64]) -> NDArray[Any]:
        stored = memory.recall(rows).astype(np.float16).astype(np.float32)
        return stored if unit else normalize(stored)

    return served


def on_grid(tokens: NDArray[Any], count: int) -> NDArray[Any]:
    """Bring an encoder's square grid of tokens ``(n, t, k)`` to ``count`` tokens by averaging."""
    if tokens.shape[1] == count:
        return tokens.astype(np.float32)
    before, after = math.isqrt(tokens.shape[1]), math.isqrt(count)
    maps = torch.from_numpy(tokens).float().transpose(1, 2).unflatten(2, (before, before))
    return functional.adaptive_avg_pool2d(maps, after).flatten(2).transpose(1, 2).numpy()
