"""Choosing a snippet by the initial noise itself, as GMem v1 samples.

The mean of n normal values times sqrt(n) is normal again; its distribution function makes it
uniform, and the uniform value points into the cumulative frequencies of the bank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_shared.errors import OutOfRangeError


@dataclass(frozen=True, slots=True)
class Selection:
    """Which bank row each latent chose, and the two numbers it chose by.

    Attributes:
        normal, uniform: float32 ``(N,)``.
        rows: int64 ``(N,)``.
    """

    normal: Tensor
    uniform: Tensor
    rows: Tensor


def select_rows(latents: Tensor, frequencies: Sequence[int] | NDArray[np.int64]) -> Selection:
    """Choose a bank row for each initial latent.

    Args:
        latents: Normal noise, float32 ``(N, C, H, W)``.
        frequencies: How often each of the K rows stands for a training image; rows of frequency
            zero are never chosen.

    Raises:
        OutOfRangeError: A frequency is negative, or none is positive.
    """
    counts = np.asarray(frequencies, dtype=np.int64)
    if not (counts > 0).any() or (counts < 0).any():
        raise OutOfRangeError(
            "expected frequencies of at least 0 with one above, "
            f"found {len(counts)} with a minimum of {counts.min(initial=0)}"
        )
    normal = latents.flatten(1).mean(dim=1) * math.sqrt(latents[0].numel())
    uniform = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
    # Compared in float32, as published: which row a boundary value chooses depends on it.
    cumulative = torch.from_numpy(np.cumsum(counts / counts.sum())).to(torch.float32)
    rows = torch.searchsorted(cumulative, uniform, right=True)
    # Float32 rounds values above about 5.4 standard deviations to 1, which lies past the last row.
    return Selection(normal, uniform, rows.clamp(max=int(counts.nonzero()[0][-1])))
