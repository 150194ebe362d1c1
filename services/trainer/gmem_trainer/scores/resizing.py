"""Resizing as TensorFlow 1 did it, in which the published FIDs were measured.

The graph of Inception-v3 resizes by itself, and its bilinear resizing puts pixel i of the output at
position i * (input side / output side) of the input: corner on corner, not centre on centre as
today's libraries do, and without a filter against aliasing. Parmar et al. 2022 (arXiv 2104.11222)
show how much a FID depends on this.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images ``(n, c, h, w)`` of a floating-point type to ``(n, c, side, side)``."""
    rows = _weights(images.shape[-2], side).to(images)
    columns = _weights(images.shape[-1], side).to(images)
    return rows @ images @ columns.T


@lru_cache(maxsize=8)
def _weights(source: int, target: int) -> Tensor:
    """Return what each output pixel takes of each input pixel, float64 ``(target, source)``."""
    position = torch.arange(target, dtype=torch.float64) * (source / target)
    below = position.floor().long()
    above = (below + 1).clamp(max=source - 1)
    fraction = (position - below)[:, None]
    pixels = torch.eye(source, dtype=torch.float64)
    return pixels[below] * (1 - fraction) + pixels[above] * fraction
