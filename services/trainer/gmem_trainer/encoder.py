"""The snippet encoder: a small convolutional network from an image to a unit-length vector.

Its identity is ``name:sha256-<first 16 digits of the weights' digest>:<preprocessing>``. Bank and
model record it, and a model refuses the snippets of any other encoder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS_FILE = "encoder.safetensors"
CONFIG_FILE = "encoder.json"


class SnippetEncoder(nn.Module):
    """Two convolutions and a linear layer; images float32 ``(n, c, h, w)`` to ``(n, d)``."""

    def __init__(self, channels: int, side: int, width: int, dimension: int) -> None:
        super().__init__()
        self.config = {"channels": channels, "side": side, "width": width, "dimension": dimension}
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (side // 2) ** 2, dimension),
            nn.BatchNorm1d(dimension, affine=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return unnormalised snippets."""
        return self.layers(images)

    @property
    def preprocessing(self) -> str:
        """Name what an image must be before it is embedded."""
        channels, side = self.config["channels"], self.config["side"]
        return f"{channels}x{side}x{side}-in-minus1-1"


def embed(encoder: SnippetEncoder, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the unit-length snippets, float32 ``(n, d)``, of images ``(n, c, h, w)``."""
    with torch.inference_mode():
        return functional.normalize(encoder(torch.from_numpy(pixels))).numpy()


def encoder_files(encoder: SnippetEncoder, name: str) -> tuple[str, dict[str, bytes]]:
    """Return the encoder's id and the two files that rebuild it."""
    weights = save(encoder.state_dict())
    digest = hashlib.sha256(weights).hexdigest()
    encoder_id = f"{name}:sha256-{digest[:16]}:{encoder.preprocessing}"
    config = {"id": encoder_id, "normalized": True, "architecture": encoder.config}
    return encoder_id, {
        WEIGHTS_FILE: weights,
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True).encode(),
    }


def load_encoder(directory: Path) -> SnippetEncoder:
    """Rebuild the encoder that :func:`encoder_files` wrote into a folder."""
    config = json.loads((directory / CONFIG_FILE).read_bytes())
    encoder = SnippetEncoder(**config["architecture"])
    encoder.load_state_dict(load((directory / WEIGHTS_FILE).read_bytes()))
    return encoder.eval()
