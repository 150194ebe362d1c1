"""Small checkpoints with random weights, in the layouts in which the real ones are published."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmem_model.networks import build
from gmem_model.published import Family
from gmem_shared.model_config import (
    Architecture,
    LabelCondition,
    LightningDiTArchitecture,
    SiTArchitecture,
    SnippetCondition,
)
from tests.support.networks import shaken

SIZES: dict[str, Any] = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 4}
WIDTH = 16
"""Of a snippet."""
PROJECTORS: dict[str, Any] = {"projector_outputs": (6,), "projector_dimension": 5}

ARCHITECTURES: dict[Family, Architecture] = {
    "gmem-v1": SiTArchitecture(
        **SIZES,
        **PROJECTORS,
        patch_size=2,
        in_channels=4,
        encoder_depth=2,
        condition=SnippetCondition(dimension=WIDTH),
    ),
    "repa": SiTArchitecture(
        **SIZES,
        **PROJECTORS,
        patch_size=2,
        in_channels=4,
        encoder_depth=2,
        condition=LabelCondition(num_classes=3),
    ),
    "sit": SiTArchitecture(
        **SIZES,
        patch_size=2,
        in_channels=4,
        encoder_depth=2,
        learn_sigma=True,
        condition=LabelCondition(num_classes=3),
    ),
    "gmem-v2": LightningDiTArchitecture(
        **SIZES,
        **PROJECTORS,
        patch_size=1,
        in_channels=32,
        encoder_depth=2,
        condition=SnippetCondition(dimension=WIDTH),
    ),
}


def weights(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return shaken(build(architecture, generator=generator), seed).state_dict()


def memory(rows: int = 7) -> dict[str, Any]:
    """Bank and frequencies of GMem v1; the first snippet is never drawn."""
    bank = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))
    return {"memorybank": bank, "memoryfreq": [0, *range(1, rows)]}


def save(path: Path, family: Family, container: str = "state-dict", **more: Any) -> Path:
    """Write a checkpoint; ``more`` are further entries of a training program's file."""
    state: Any = weights(ARCHITECTURES[family])
    if container == "one-file":
        state = {"network": state, **memory()}
    elif container == "training":
        raw = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        state = {"model": raw, "ema": state, "opt": {"state": {}}, **more}
    torch.save(state, path)
    return path


def options(**changes: Any) -> argparse.Namespace:
    """Options as the training programs of SiT and REPA save them."""
    return argparse.Namespace(**{"model": "SiT-XL/2", "seed": 0, "path_type": "linear", **changes})
