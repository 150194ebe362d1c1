"""From sampled latents to 8-bit images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.images import quantize
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LatentSpace, PixelSpace


class Decoder:
    """Turns latents of one latent space into images.

    Raises:
        InvalidRequestError: The latent space needs an autoencoder and there is none.
    """

    def __init__(self, latent_space: LatentSpace) -> None:
        if not isinstance(latent_space, PixelSpace):
            raise InvalidRequestError(f"expected pixels, found latents of {latent_space.kind!r}")
        self._eight_bit = latent_space.eight_bit

    def __call__(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decode latents ``(n, C, S, S)`` to images, uint8 ``(n, height, width, channels)``."""
        images = quantize(latents, self._eight_bit).permute(0, 2, 3, 1)
        return np.ascontiguousarray(images.cpu().numpy())
