"""What evaluates a network: PyTorch as it is, scripted or compiled, or ONNX Runtime.

The choice follows from the network and the device alone. A choice by stopwatch would differ from
start to start, and with it the last bits of every image: a replay would not be one.
`benchmarks/engine_runtimes.py` is the measurement behind it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from gmem_model.engine.onnx_network import MAX_BYTES, OnnxNetwork
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_model.transformer import Transformer
from gmem_shared.errors import InvalidRequestError
from gmem_shared.settings import EngineSettings, RuntimeName

Core = Callable[[Tensor, Tensor], Tensor]


def device_of(settings: EngineSettings) -> torch.device:
    """Return the device of a process's engines.

    Raises:
        InvalidRequestError: The settings name a GPU and there is none.
    """
    available = torch.cuda.is_available()
    if settings.device == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and not available:
        raise InvalidRequestError(
            f"expected a GPU for GMEM_ENGINE__DEVICE={settings.device}, found none that PyTorch "
            "can use; choose cpu or auto"
        )
    return device


def prepare(guided: GuidedNetwork, settings: EngineSettings) -> GuidedNetwork:
    """Return the networks as the engine evaluates them, on its device."""
    device = device_of(settings)
    network = _prepare(guided.network, settings, device)
    reference = guided.reference
    if reference is guided.network:
        reference = network
    elif reference is not None:
        reference = _prepare(reference, settings, device)
    return GuidedNetwork(network, reference, guided.channels)


def choose(network: Network, device: torch.device) -> RuntimeName:
    """Return the fastest runtime that starts in a few seconds and keeps rows independent."""
    if device.type == "cuda":
        return "compiled"
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    return "onnx" if isinstance(network, Transformer) and weights <= MAX_BYTES else "eager"


def _prepare(network: Network, settings: EngineSettings, device: torch.device) -> Network:
    name = choose(network, device) if settings.runtime == "auto" else settings.runtime
    if name == "onnx":
        return OnnxNetwork(_transformer(network, name), settings.threads)
    network = network.to(device, torch.bfloat16 if device.type == "cuda" else None)
    if name == "compiled":
        network.core = torch.compile(network.core, dynamic=True)  # type: ignore[method-assign]
    elif name == "scripted":
        network.core = scripted(_transformer(network, name))  # type: ignore[assignment,method-assign]
    return network


def _transformer(network: Network, name: RuntimeName) -> Transformer:
    if not isinstance(network, Transformer):
        raise InvalidRequestError(
            f"expected a transformer for GMEM_ENGINE__RUNTIME={name}, found "
            f"{type(network).__name__}; choose auto, eager or compiled"
        )
    return network


def scripted(network: Network) -> Core:
    """Return the network's core as a frozen TorchScript program."""
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing is deprecated for compilation, which takes longer; and it warns of sizes, which
        # are constants here.
        warnings.simplefilter("ignore")
        inputs = {"core": examples(network, 2)}
        traced = torch.jit.trace_module(network, inputs, check_trace=False)
        frozen = torch.jit.freeze(traced.eval(), preserved_attrs=["core"])
    return cast("Core", frozen.core)


def examples(network: Network, rows: int) -> tuple[Tensor, Tensor]:
    """Return latents and modulations, zeros, as the network's core takes them."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(rows, *shape, dtype=network.dtype, device=network.device)

    return zeros(*network.latent_shape), zeros(network.modulation_width)
