"""A small convolutional encoder, to be trained on one's own images."""

from __future__ import annotations

from torch import Tensor, nn

from gmem_model.encoders.encoder import EncoderNetwork, Features

_FEATURE_LAYERS = 6
"""The layers up to the last convolution."""


class ConvNet(EncoderNetwork):
    """Two convolutions and a linear layer, for images of ``channels`` and one fixed ``side``."""

    kind = "convnet"
    normalized = True

    def __init__(self, channels: int, side: int, width: int, dimension: int) -> None:
        super().__init__(channels=channels, side=side, width=width, dimension=dimension)
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

    @property
    def dimension(self) -> int:
        """Entries of a snippet."""
        return self.architecture["dimension"]

    @property
    def preprocessing(self) -> str:
        """Name what an image must be before it is embedded."""
        channels, side = self.architecture["channels"], self.architecture["side"]
        return f"{channels}x{side}x{side}-in-minus1-1"

    def forward(self, images: Tensor) -> Tensor:
        """Return unnormalised snippets ``(n, d)``."""
        return self.layers(images)

    def feature_map(self, images: Tensor) -> Tensor:
        """Return what the last convolution sees, ``(n, 2 width, side/2, side/2)``."""
        return self.layers[:_FEATURE_LAYERS](images)

    def features(self, images: Tensor) -> Features:
        """Return unnormalised snippets and the places of the last convolution as tokens."""
        seen = self.feature_map(images)
        return Features(self.layers[_FEATURE_LAYERS:](seen), seen.flatten(2).transpose(1, 2))
