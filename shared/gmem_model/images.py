"""From decoded values to 8-bit images.

The published families disagree about the last step, and a reproduction must follow its own family
to the bit, so every formula has a name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EightBit = Literal["rounded", "gmem-v1", "sit", "edm2-latent"]

_FORMULAS: dict[EightBit, Callable[[Any], Any]] = {
    # The nearest level; for networks trained on pixels.
    "rounded": lambda y: (127.5 * (y + 1)).round(),
    # GMem v1 and REPA: the levels below, truncated.
    "gmem-v1": lambda y: 255 * ((y + 1) / 2),
    # SiT, GMem v2 and EDM2 on pixels: truncated half a level higher.
    "sit": lambda y: 127.5 * y + 128,
    # EDM2 in latent space decodes to [0, 1].
    "edm2-latent": lambda y: 255 * y,
}


def quantize(values: Tensor, formula: EightBit) -> Tensor:
    """Map decoded values to 8 bits, uint8 in the same shape.

    Values are expected in [-1, 1], for ``edm2-latent`` in [0, 1]; what lies outside is clamped.
    """
    return _FORMULAS[formula](values).clamp(0, 255).to(torch.uint8)


def quantize_array(values: NDArray[Any], formula: EightBit) -> NDArray[np.uint8]:
    """Return what `quantize` does; on few values numpy takes a third of PyTorch's time."""
    with np.errstate(invalid="ignore"):  # as PyTorch, which makes something of NaN, too
        levels: NDArray[np.uint8] = _FORMULAS[formula](values).clip(0, 255).astype(np.uint8)
    return levels
