"""No encoder: an image's own pixels are its snippet."""

from __future__ import annotations

from torch import Tensor

from gmem_model.encoders.encoder import EncoderNetwork, Features


class Identity(EncoderNetwork):
    """Pixels as snippets, for images of ``channels`` and one fixed ``side``."""

    kind = "identity"
    normalized = False

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(channels=channels, side=side)

    @property
    def dimension(self) -> int:
        """Entries of a snippet."""
        return self.architecture["channels"] * self.architecture["side"] ** 2

    @property
    def preprocessing(self) -> str:
        """Name what an image must be before it is embedded."""
        channels, side = self.architecture["channels"], self.architecture["side"]
        return f"{channels}x{side}x{side}-in-minus1-1"

    def features(self, images: Tensor) -> Features:
        """Return all values of an image as its snippet, its pixels as tokens."""
        return Features(images.flatten(1), images.flatten(2).transpose(1, 2))
