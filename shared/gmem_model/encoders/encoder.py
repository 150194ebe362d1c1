"""What every snippet encoder is: a network, and the id under which banks and models know it.

The id is ``name:sha256-<first 16 digits of the weights' digest>:<preprocessing>``. Bank and model
record it, and a model refuses the snippets of any other encoder.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS_FILE = "encoder.safetensors"
CONFIG_FILE = "encoder.json"


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder sees in images.

    Attributes:
        snippets: One vector per image, float32 ``(n, d)``.
        tokens: One vector per place of the image, in row-major order, float32 ``(n, t, k)``; what
            REPA (arXiv 2410.06940) aligns a diffusion transformer with.
    """

    snippets: Tensor
    tokens: Tensor


class EncoderNetwork(nn.Module, ABC):
    """Maps images in [-1, 1] to features.

    Args:
        architecture: What the subclass is built with; kept for ``encoder.json``.
    """

    kind: ClassVar[str]
    normalized: ClassVar[bool]
    """Whether snippets are brought to unit length."""

    def __init__(self, **architecture: int) -> None:
        super().__init__()
        self.architecture = architecture

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Entries of a snippet."""

    @property
    @abstractmethod
    def preprocessing(self) -> str:
        """Name what happens to an image before the first weight, as a part of the encoder's id."""

    @abstractmethod
    def features(self, images: Tensor) -> Features:
        """Return the features of images, float32 ``(n, c, h, w)``; snippets of any length."""


@dataclass(frozen=True, slots=True)
class SnippetEncoder:
    """An encoder network under its id."""

    id: str
    network: EncoderNetwork

    @classmethod
    def of(cls, network: EncoderNetwork, name: str) -> SnippetEncoder:
        """Name a network; the id tells its weights and its preprocessing."""
        digest = hashlib.sha256(_weights(network)).hexdigest()
        return cls(f"{name}:sha256-{digest[:16]}:{network.preprocessing}", network.eval())

    def to(self, device: torch.device | str) -> SnippetEncoder:
        """Return the encoder on another device."""
        return SnippetEncoder(self.id, self.network.to(device))

    @property
    def dimension(self) -> int:
        """Entries of a snippet."""
        return self.network.dimension

    @property
    def normalized(self) -> bool:
        """Whether snippets have unit length."""
        return self.network.normalized

    def embed(self, images: Tensor) -> Tensor:
        """Return the snippets ``(n, d)`` of images ``(n, c, h, w)`` in [-1, 1], all float32."""
        return self.features(images).snippets

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Return snippets as `embed` does, and the tokens beside them."""
        features = self.network.features(images)
        if not self.normalized:
            return features
        return Features(functional.normalize(features.snippets), features.tokens)

    def files(self) -> dict[str, bytes]:
        """Return the two files that rebuild the encoder."""
        config = {
            "id": self.id,
            "kind": self.network.kind,
            "normalized": self.normalized,
            "architecture": self.network.architecture,
        }
        return {
            WEIGHTS_FILE: _weights(self.network),
            CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True).encode(),
        }


def _weights(network: EncoderNetwork) -> bytes:
    return save(network.state_dict())
