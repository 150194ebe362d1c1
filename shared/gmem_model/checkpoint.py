"""Reading and writing network weights: safetensors only, checked against the configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gmem_model.network import Network
from gmem_model.networks import build
from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from gmem_shared.model_config import Architecture, EDM2Architecture, ModelConfig

_PROJECTORS = ("projectors.", "projector.")
_PRECISIONS = ("F32", "F16", "BF16")


def save_network(path: Path, network: Network) -> None:
    """Write a network's state dict; a reader sees the old file or the whole new one."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial)
    partial.replace(path)


def load_network(path: Path, config: ModelConfig) -> Network:
    """Build the network of ``config`` with the weights of ``path``, in eval mode and float32.

    The file may hold float32, float16 or bfloat16. It may lack what follows from the architecture
    (`Network.derived_weights`) and all projectors, which only training needs: the network is then
    built without them. Loading takes little more memory than the weights.

    Raises:
        CorruptVersionError: The file is no safetensors file, or its names, shapes or types are not
            those of the configuration.
    """
    return _load(path, config.architecture)


def load_guide(path: Path, config: ModelConfig) -> Network:
    """Build the second network that guides the one of ``config``, as `load_network` does.

    Raises:
        InvalidRequestError: The configuration has no second network.
        CorruptVersionError: As `load_network`.
    """
    if config.guidance is None or config.guidance.guide is None:
        raise InvalidRequestError("expected a model with guidance by a second network, found none")
    return _load(path, config.guidance.guide)


def _load(path: Path, architecture: Architecture) -> Network:
    found = _describe(path)
    if not any(name.startswith(_PROJECTORS) for name in found):
        architecture = _without_projectors(architecture)
    with torch.device("meta"):
        network = build(architecture)
    expected, weights = network.state_dict(), network.derived_weights()
    required = {n: tuple(v.shape) for n, v in expected.items() if n in found or n not in weights}
    _check(path.name, expected=required, found=found)
    weights |= {name: _read(path, name) for name in found}
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _describe(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and the type of every tensor of a file."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except SafetensorError as error:
        raise CorruptVersionError(
            f"expected {path.name} to be a safetensors file, found one that does not open: {error}"
        ) from error


def _read(path: Path, name: str) -> Tensor:
    # The pages of the mapped file count as ours until it is closed: opened once for all tensors,
    # it would double the memory that loading takes.
    with safe_open(path, "pt") as file:
        # The copy moves the weights into memory of torch's own alignment, so that kernels give
        # the same bits wherever the file came from.
        return file.get_tensor(name).to(torch.float32, copy=True)


def _without_projectors(architecture: Architecture) -> Architecture:
    if isinstance(architecture, EDM2Architecture):
        return architecture
    return architecture.model_copy(update={"projector_outputs": ()})


def _check(
    file: str,
    *,
    expected: dict[str, tuple[int, ...]],
    found: dict[str, tuple[tuple[int, ...], str]],
) -> None:
    reshaped = [
        f"{name} (expected {expected[name]}, found {shape})"
        for name, (shape, _) in sorted(found.items())
        if name in expected and expected[name] != shape
    ]
    retyped = [
        f"{name} ({dtype})"
        for name, (_, dtype) in sorted(found.items())
        if dtype not in _PRECISIONS
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": reshaped,
        f"of another type than {', '.join(_PRECISIONS)}": retyped,
    }
    listed = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if listed:
        raise CorruptVersionError(
            f"expected {file} to hold exactly the weights its config.json describes; "
            f"{'; '.join(listed)}. Publish the version again from one training run"
        )
