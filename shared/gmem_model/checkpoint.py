"""Reading and writing network weights: safetensors only, checked against the configuration."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from gmem_model.network import Network
from gmem_model.networks import build
from gmem_model.weights import WeightsFile, assign, without_weights
from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from gmem_shared.model_config import Architecture, EDM2Architecture, ModelConfig

PROJECTORS = ("projectors.", "projector.")
"""How the names of projectors begin, which only training needs."""


def save_network(path: Path, network: Network) -> None:
    """Write a network's state dict; a reader sees the old file or the whole new one."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial)
    partial.replace(path)


def load_network(path: Path, config: ModelConfig) -> Network:
    """Build the network of ``config`` with the weights of ``path``, in eval mode and float32.

    The file may be of any floating-point type. It may lack what follows from the architecture
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
    weights = WeightsFile(path)
    if not any(name.startswith(PROJECTORS) for name in weights):
        architecture = _without_projectors(architecture)
    with without_weights():
        network = build(architecture)
    try:
        return assign(network, weights, path.name, defaults=network.derived_weights())
    except InvalidRequestError as error:
        raise CorruptVersionError(f"{error.detail}; publish the version again") from error


def _without_projectors(architecture: Architecture) -> Architecture:
    if isinstance(architecture, EDM2Architecture):
        return architecture
    return architecture.model_copy(update={"projector_outputs": ()})
