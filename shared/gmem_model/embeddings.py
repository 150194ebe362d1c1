"""Position and time as vectors: sinusoids for the step time, 2-D tables for the tokens.

Shape suffixes: N rows of the batch, T tokens in row-major order, G side of the token grid
(T = G²), D width of a token, H attention heads, K width of a head.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from numpy.typing import NDArray
from torch import Tensor

MAX_PERIOD = 10000.0


def time_sinusoids(t_N: Tensor, width: int = 256) -> Tensor:
    """Return ``[cos(t f), sin(t f)]`` for geometric frequencies f, float32 ``(N, width)``.

    The time itself enters, in [0, 1]; it is not multiplied by a number of diffusion steps.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t_N.device) / half
    angles = t_N[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_table(width: int, grid: int) -> NDArray[np.float32]:
    """Return the fixed 2-D sine-cosine position table, float32 ``(T, D)``.

    Each half of the width encodes one coordinate as ``[sin, cos]``: the column first, then the row.
    """
    quarter = width // 4
    frequencies = MAX_PERIOD ** -(np.arange(quarter) / quarter)
    row, column = np.divmod(np.arange(grid * grid), grid)
    by_column, by_row = np.outer(column, frequencies), np.outer(row, frequencies)
    table = [np.sin(by_column), np.cos(by_column), np.sin(by_row), np.cos(by_row)]
    return np.concatenate(table, axis=1).astype(np.float32)


def resample_position_table(table_1TD: Tensor, grid: int) -> Tensor:
    """Resample a learned position table with one prefix row (DINOv2's CLS) to another grid.

    Args:
        table_1TD: ``(1, 1 + G0², D)``.
        grid: The side G of the new grid.

    Returns:
        ``(1, 1 + G², D)``: the prefix row as it was, the grid bicubic with antialiasing.
    """
    prefix_11D, patches_1TD = table_1TD[:, :1], table_1TD[:, 1:]
    side = math.isqrt(patches_1TD.shape[1])
    patches_1DGG = patches_1TD.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resampled = F.interpolate(patches_1DGG, size=(grid, grid), mode="bicubic", antialias=True)
    return torch.cat([prefix_11D, resampled.flatten(2).transpose(1, 2)], dim=1)


def rotary_table(head_width: int, grid: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of 2-D rotary embedding, each float32 ``(T, K)``.

    The first half of a head turns with the token's row, the second with its column; every angle
    serves two adjacent entries.
    """
    half = head_width // 2
    # In this order the roundings, and so the tables, are those of the published checkpoints.
    frequencies = 1 / MAX_PERIOD ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    angles = torch.outer(torch.arange(grid, dtype=torch.float32), frequencies)
    angles = angles.repeat_interleave(2, dim=1)
    by_row = angles[:, None, :].expand(grid, grid, half)
    by_column = angles[None, :, :].expand(grid, grid, half)
    angles_TK = torch.cat([by_row, by_column], dim=-1).reshape(grid * grid, head_width)
    return angles_TK.cos(), angles_TK.sin()


def rotate(x_NHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn each adjacent pair of entries of queries or keys by its token's angle."""
    even, odd = x_NHTK[..., 0::2], x_NHTK[..., 1::2]
    quarter_turn = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x_NHTK * cos_TK + quarter_turn * sin_TK
