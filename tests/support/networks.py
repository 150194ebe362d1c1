"""Networks in a state that tests can learn something from."""

from __future__ import annotations

from typing import TypeVar

import torch

from gmem_model.network import Network

NetworkT = TypeVar("NetworkT", bound=Network)


def shaken(network: NetworkT, seed: int = 0) -> NetworkT:
    """Add noise to every weight, so that none is zero as many of a fresh network are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()
