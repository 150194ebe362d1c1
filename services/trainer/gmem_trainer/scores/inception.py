"""Inception-v3 as the scores of generative models use it.

Source: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision"
(arXiv 1512.00567), in the variant of TensorFlow's graph of 2015-12-05, in which the FID is defined.
It differs from the network of the paper in its 1008 outputs and in three kinds of pooling: averages
leave out the padding, and the last block takes a maximum. Parameters carry the names of
``pt_inception-2015-12-05-6726825d.pth``, the conversion of that graph that everybody uses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.importing.torch_file import read_torch_file, state_dict
from gmem_model.weights import WeightsFile, assign

SIDE = 299
POOLED = 2048
OUTPUTS = 1008
SPATIAL_CHANNELS = 7
"""sFID (Nash et al. 2021, arXiv 2103.03841) reads the first seven of Mixed_6d's first branch."""

Sizes = int | tuple[int, int]


class InceptionFeatures(NamedTuple):
    """What the scores read.

    Attributes:
        pooled: float32 ``(N, 2048)``, the last layer before the classes.
        spatial: float32 ``(N, 17 * 17 * 7)``, an intermediate layer by row, column and channel.
        logits: float32 ``(N, 1008)``, without the classifier's bias, as ADM computes them.
    """

    pooled: Tensor
    spatial: Tensor
    logits: Tensor


class ConvBN(nn.Module):
    """Convolution, batch norm, ReLU; keeps the size of the image unless ``valid``."""

    def __init__(
        self, channels: int, outputs: int, kernel: Sizes, *, stride: int = 1, valid: bool = False
    ) -> None:
        super().__init__()
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (rows // 2, columns // 2)
        self.conv = nn.Conv2d(channels, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        return F.relu(self.bn(self.conv(x)))


class InceptionA(nn.Module):
    """Mixed_5: 1x1, 5x5 and two 3x3 convolutions beside a pooled branch, at 35x35."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBN(channels, 64, 1)
        self.branch5x5_1 = ConvBN(channels, 48, 1)
        self.branch5x5_2 = ConvBN(48, 64, 5)
        self.branch3x3dbl_1 = ConvBN(channels, 64, 1)
        self.branch3x3dbl_2 = ConvBN(64, 96, 3)
        self.branch3x3dbl_3 = ConvBN(96, 96, 3)
        self.branch_pool = ConvBN(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side."""
        one = self.branch1x1(x)
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([one, five, three, self.branch_pool(_average(x))], dim=1)


class InceptionB(nn.Module):
    """Mixed_6a: from 35x35 to 17x17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBN(channels, 384, 3, stride=2, valid=True)
        self.branch3x3dbl_1 = ConvBN(channels, 64, 1)
        self.branch3x3dbl_2 = ConvBN(64, 96, 3)
        self.branch3x3dbl_3 = ConvBN(96, 96, 3, stride=2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halve(x)], dim=1)


class InceptionC(nn.Module):
    """Mixed_6b to 6e: 7x7 convolutions, taken apart into rows and columns, at 17x17."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvBN(channels, 192, 1)
        self.branch7x7_1 = ConvBN(channels, inner, 1)
        self.branch7x7_2 = ConvBN(inner, inner, row)
        self.branch7x7_3 = ConvBN(inner, 192, column)
        self.branch7x7dbl_1 = ConvBN(channels, inner, 1)
        self.branch7x7dbl_2 = ConvBN(inner, inner, column)
        self.branch7x7dbl_3 = ConvBN(inner, inner, row)
        self.branch7x7dbl_4 = ConvBN(inner, inner, column)
        self.branch7x7dbl_5 = ConvBN(inner, 192, row)
        self.branch_pool = ConvBN(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side; the first 192 channels are those of ``branch1x1``."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pooled = self.branch_pool(_average(x))
        return torch.cat([self.branch1x1(x), seven, double, pooled], dim=1)


class InceptionD(nn.Module):
    """Mixed_7a: from 17x17 to 8x8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBN(channels, 192, 1)
        self.branch3x3_2 = ConvBN(192, 320, 3, stride=2, valid=True)
        self.branch7x7x3_1 = ConvBN(channels, 192, 1)
        self.branch7x7x3_2 = ConvBN(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvBN(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvBN(192, 192, 3, stride=2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), _halve(x)], dim=1)


class InceptionE(nn.Module):
    """Mixed_7b and 7c: 3x3 convolutions that end in a row and a column each, at 8x8."""

    def __init__(self, channels: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.branch1x1 = ConvBN(channels, 320, 1)
        self.branch3x3_1 = ConvBN(channels, 384, 1)
        self.branch3x3_2a = ConvBN(384, 384, (1, 3))
        self.branch3x3_2b = ConvBN(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvBN(channels, 448, 1)
        self.branch3x3dbl_2 = ConvBN(448, 384, 3)
        self.branch3x3dbl_3a = ConvBN(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvBN(384, 384, (3, 1))
        self.branch_pool = ConvBN(channels, 192, 1)
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(self._pool(x)),
            ],
            dim=1,
        )


class InceptionV3(nn.Module):
    """Images to the features of the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBN(3, 32, 3, stride=2, valid=True)
        self.Conv2d_2a_3x3 = ConvBN(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = ConvBN(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvBN(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBN(80, 192, 3, valid=True)
        self.Mixed_5b = InceptionA(192, pooled=32)
        self.Mixed_5c = InceptionA(256, pooled=64)
        self.Mixed_5d = InceptionA(288, pooled=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, inner=128)
        self.Mixed_6c = InceptionC(768, inner=160)
        self.Mixed_6d = InceptionC(768, inner=160)
        self.Mixed_6e = InceptionC(768, inner=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, _average)
        self.Mixed_7c = InceptionE(2048, _maximum)
        self.fc = nn.Linear(POOLED, OUTPUTS)

    def forward(self, x: Tensor) -> InceptionFeatures:
        """Return the features of images ``(N, 3, 299, 299)`` in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = _halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x))))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))
        pooled = x.mean(dim=(2, 3))
        return InceptionFeatures(pooled, spatial, F.linear(pooled, self.fc.weight))


def load_inception(path: Path) -> InceptionV3:
    """Build the network with the weights of a file, ``.pth`` or ``.safetensors``.

    Raises:
        InvalidRequestError: The file holds anything but exactly this network's weights. Whatever
            else is in it was not executed.
    """
    if path.suffix == ".safetensors":
        weights = dict(WeightsFile(path))
    else:
        weights = state_dict(read_torch_file(path), path)
    with torch.device("meta"):
        network = InceptionV3()
    return assign(network, weights, path.name)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)
