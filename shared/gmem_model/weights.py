"""Weights of any module: out of a safetensors file, and into a module they fit exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gmem_shared.errors import CorruptVersionError, InvalidRequestError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file.

    Raises:
        CorruptVersionError: It is none.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptVersionError(
            f"expected {path.name} to be a safetensors file, found one that does not open: {error}"
        ) from error


def assign(module: ModuleT, weights: Mapping[str, Tensor], source: str) -> ModuleT:
    """Give a module these weights, in float32, and return it in eval mode.

    Args:
        module: May be on the meta device.
        weights: Exactly its state dict, in any dtype.
        source: Where they come from, for the message.

    Raises:
        InvalidRequestError: Names or shapes are not those of the module.
    """
    different = differences(module.state_dict(), weights)
    if different:
        raise InvalidRequestError(
            f"expected {source} to hold exactly the weights of a {type(module).__name__} of its "
            f"configuration; {different}"
        )
    # The copy moves the weights from a mapped file into memory of torch's own alignment, so that
    # kernels give the same bits wherever the file came from.
    owned = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
    module.load_state_dict(owned, assign=True)
    return module.eval()


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Say which weights are missing, unexpected or of another shape; empty if none is."""
    reshaped = [
        f"{name} (expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)})"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": reshaped,
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
