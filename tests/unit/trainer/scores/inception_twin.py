"""Inception-v3 once more: one function over a state dict, written from the paper's figures.

Figures 5, 6 and 7 of arXiv 1512.00567 with the pooling of TensorFlow's graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BLOCKS_35 = ("Mixed_5b", "Mixed_5c", "Mixed_5d")
BLOCKS_17 = ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")


def pooled_and_spatial(weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pooled features and the first branch of Mixed_6d."""

    def conv(name: str, x: Tensor, stride: int = 1, pad: bool = True) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        padding = [side // 2 for side in kernel.shape[2:]] if pad else [0, 0]
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        mean, variance = weights[f"{name}.bn.running_mean"], weights[f"{name}.bn.running_var"]
        scale = weights[f"{name}.bn.weight"] / (variance + 0.001).sqrt()
        shift = weights[f"{name}.bn.bias"] - mean * scale
        return torch.relu(x * scale[:, None, None] + shift[:, None, None])

    def chain(names: list[str], x: Tensor, last_stride: int = 1) -> Tensor:
        for name in names[:-1]:
            x = conv(name, x)
        return conv(names[-1], x, last_stride, pad=last_stride == 1)

    def average(x: Tensor) -> Tensor:
        ones = torch.ones_like(x[:1, :1])
        summed = F.avg_pool2d(x, 3, 1, 1, divisor_override=1)
        return summed / F.avg_pool2d(ones, 3, 1, 1, divisor_override=1)

    x = conv("Conv2d_1a_3x3", x, 2, pad=False)
    x = conv("Conv2d_2b_3x3", conv("Conv2d_2a_3x3", x, pad=False))
    x = conv("Conv2d_3b_1x1", F.max_pool2d(x, 3, 2))
    x = F.max_pool2d(conv("Conv2d_4a_3x3", x, pad=False), 3, 2)
    for block in BLOCKS_35:
        x = torch.cat([
            conv(f"{block}.branch1x1", x),
            chain([f"{block}.branch5x5_{i}" for i in (1, 2)], x),
            chain([f"{block}.branch3x3dbl_{i}" for i in (1, 2, 3)], x),
            conv(f"{block}.branch_pool", average(x)),
        ], 1)  # fmt: skip
    x = torch.cat([
        conv("Mixed_6a.branch3x3", x, 2, pad=False),
        chain([f"Mixed_6a.branch3x3dbl_{i}" for i in (1, 2, 3)], x, last_stride=2),
        F.max_pool2d(x, 3, 2),
    ], 1)  # fmt: skip
    spatial = x
    for block in BLOCKS_17:
        first = conv(f"{block}.branch1x1", x)
        spatial = first if block == "Mixed_6d" else spatial
        x = torch.cat([
            first,
            chain([f"{block}.branch7x7_{i}" for i in (1, 2, 3)], x),
            chain([f"{block}.branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)], x),
            conv(f"{block}.branch_pool", average(x)),
        ], 1)  # fmt: skip
    x = torch.cat([
        chain([f"Mixed_7a.branch3x3_{i}" for i in (1, 2)], x, last_stride=2),
        chain([f"Mixed_7a.branch7x7x3_{i}" for i in (1, 2, 3, 4)], x, last_stride=2),
        F.max_pool2d(x, 3, 2),
    ], 1)  # fmt: skip
    for block in ("Mixed_7b", "Mixed_7c"):
        three = conv(f"{block}.branch3x3_1", x)
        double = chain([f"{block}.branch3x3dbl_{i}" for i in (1, 2)], x)
        pool = average(x) if block == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([
            conv(f"{block}.branch1x1", x),
            *(conv(f"{block}.branch3x3_2{part}", three) for part in "ab"),
            *(conv(f"{block}.branch3x3dbl_3{part}", double) for part in "ab"),
            conv(f"{block}.branch_pool", pool),
        ], 1)  # fmt: skip
    return x.mean((2, 3)), spatial
