"""Every family of networks, by the name its architecture has."""

from __future__ import annotations

import torch

from gmem_model.edm2.network import EDM2
from gmem_model.lightningdit import LightningDiT
from gmem_model.network import Network
from gmem_model.sit import SiT
from gmem_shared.model_config import Architecture

_FAMILIES: dict[str, type[Network]] = {"sit": SiT, "lightningdit": LightningDiT, "edm2": EDM2}


def build(architecture: Architecture, *, generator: torch.Generator | None = None) -> Network:
    """Build a network with fresh weights.

    Args:
        architecture: Family, sizes and condition.
        generator: Source of the initial weights; torch's global one by default.

    Raises:
        InvalidRequestError: The sizes do not fit each other.
    """
    return _FAMILIES[architecture.family](architecture, generator=generator)
