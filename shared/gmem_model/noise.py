"""Counter-based normal noise: every value is a pure function of what it is for.

Noise never depends on the batch an image shares, on its place there or on what was drawn before,
which is what makes an image reproducible under continuous batching. The layout, on
Philox4x32-10 (`gmem_shared.philox`), is a published format: `docs/formats/noise.md`.

==================  ====================================================================
key words 0, 1      seed, low and high 32 bits
counter word 0      element block: the elements 4 b … 4 b + 3 of the latent in (C, H, W) order
counter word 1      stage: 0 the initial latent, k + 1 the noise after network evaluation k,
                    2^32 - 2 the noise before the first one
counter words 2, 3  index of the image within its seed's stream, low and high 32 bits
==================  ====================================================================

The four words w of a block become u = (w + 1/2) / 2^32 in (0, 1), and by Box and Muller (1958)
the pairs (u0, u1) and (u2, u3) become r cos(2 pi u'), r sin(2 pi u') with r = sqrt(-2 ln u).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_shared.philox import MULTIPLIERS, ROUNDS, WEYL, philox4x32, split64

INITIAL_LATENT = 0
"""The stage of the latent that sampling starts from."""

_LOW = 0xFFFFFFFF

BEFORE_FIRST_EVALUATION = 2**32 - 2
"""The stage of the noise that some samplers add to the initial latent; the next one is that of
`gmem_shared.class_draw`."""


def stage_of_evaluation(k: int) -> int:
    """Return the stage of the noise added after evaluation ``k``; -1 is before the first."""
    return k + 1 if k >= 0 else BEFORE_FIRST_EVALUATION


def normal(
    seeds: NDArray[np.uint64],
    indices: NDArray[np.int64],
    stages: NDArray[np.int64],
    shape: Sequence[int],
) -> NDArray[np.float64]:
    """Return standard normal noise for n images at once.

    Args:
        seeds: uint64 ``(n,)``.
        indices: int64 ``(n,)``, not negative: the image's number within its seed's stream.
        stages: int64 ``(n,)``, 0 … 2^32 - 1.
        shape: ``(C, H, W)`` of the latent.

    Returns:
        float64 ``(n, C, H, W)``.
    """
    size = math.prod(shape)
    blocks = -(-size // 4)
    counter = np.empty((len(seeds), blocks, 4), dtype=np.uint32)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = stages.astype(np.uint32)[:, None]
    index_low, index_high = split64(indices.astype(np.uint64))
    counter[..., 2], counter[..., 3] = index_low[:, None], index_high[:, None]
    key = np.stack(split64(seeds.astype(np.uint64)), axis=-1)[:, None, :]
    return _box_muller(philox4x32(counter, key))[:, :size].reshape(len(seeds), *shape)


def normal_on_device(
    seeds: Tensor, indices: Tensor, stages: Tensor, shape: Sequence[int]
) -> Tensor:
    """Return what `normal` does, computed where the arguments are.

    Args:
        seeds: int64 ``(n,)``, the bits of the unsigned seeds.
        indices: int64 ``(n,)``, as for `normal`.
        stages: int64 ``(n,)``.
        shape: ``(C, H, W)`` of the latent.

    Returns:
        float64 ``(n, C, H, W)``. Logarithm, sine and cosine are those of the device: the last bits
        may differ.
    """
    words = _philox_words(seeds, indices, stages, -(-math.prod(shape) // 4))
    return _box_muller_tensor(words)[:, : math.prod(shape)].reshape(len(seeds), *shape)


def _philox_words(seeds: Tensor, indices: Tensor, stages: Tensor, blocks: int) -> Tensor:
    """Return the random words as int64 ``(n, blocks, 4)``, by `gmem_shared.philox` in tensors.

    Products of 32-bit words wrap to negative numbers and keep their bits.
    """
    block = torch.arange(blocks, device=seeds.device).expand(len(seeds), blocks)
    even = torch.stack([block, (indices & _LOW)[:, None].expand_as(block)])
    odd = torch.stack([stages, indices >> 32 & _LOW])[..., None].expand_as(even)
    key = torch.stack([seeds & _LOW, seeds >> 32 & _LOW])[..., None]
    multipliers, weyl = (
        torch.tensor(pair, device=seeds.device)[:, None, None] for pair in (MULTIPLIERS, WEYL)
    )
    for _ in range(ROUNDS):
        product = multipliers * even
        even, odd = (product >> 32 & _LOW).flip(0) ^ odd ^ key, (product & _LOW).flip(0)
        key = key + weyl & _LOW
    return torch.stack([even[0], odd[0], even[1], odd[1]], dim=-1)


def _box_muller_tensor(words: Tensor) -> Tensor:
    """Map int64 ``(n, blocks, 4)`` to float64 ``(n, 4 blocks)``."""
    u, v = ((words.double() + 0.5) * 2.0**-32).unflatten(-1, (2, 2)).unbind(-1)
    radius, angle = torch.sqrt(-2.0 * torch.log(u)), 2.0 * math.pi * v
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(1)


def _box_muller(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Map uint32 ``(n, blocks, 4)`` to float64 ``(n, 4 blocks)``."""
    pairs = ((words + 0.5) * 2.0**-32).reshape(len(words), 2 * words.shape[1], 2)
    radius = np.sqrt(-2.0 * np.log(pairs[..., 0]))
    angle = 2.0 * np.pi * pairs[..., 1]
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return normals.reshape(len(words), 4 * words.shape[1])
