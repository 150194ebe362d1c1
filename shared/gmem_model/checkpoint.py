"""Reading and writing network weights: safetensors only, checked against the configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gmem_model.network import Network
from gmem_model.networks import build
from gmem_shared.errors import CorruptVersionError
from gmem_shared.model_config import ModelConfig


def save_network(path: Path, network: Network) -> None:
    """Write a network's state dict; a reader sees the old file or the whole new one."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial)
    partial.replace(path)


def load_network(path: Path, config: ModelConfig) -> Network:
    """Build the network of ``config`` with the weights of ``path``, in eval mode and float32.

    Raises:
        CorruptVersionError: The file is no safetensors file, or its names or shapes are not those
            of the configuration.
    """
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CorruptVersionError(
            f"expected {path.name} to be a safetensors file, found one that does not open: {error}"
        ) from error
    with torch.device("meta"):
        network = build(config.architecture)
    _check(path.name, expected=network.state_dict(), found=weights)
    # The copy moves the weights from the mapped file into memory of torch's own alignment, so that
    # kernels give the same bits wherever the file came from.
    owned = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
    network.load_state_dict(owned, assign=True)
    return network.eval()


def _check(file: str, *, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} (expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)})"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    listed = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if listed:
        raise CorruptVersionError(
            f"expected {file} to hold exactly the weights its config.json describes; "
            f"{'; '.join(listed)}. Publish the version again from one training run"
        )
