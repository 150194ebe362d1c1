"""From sampled latents to 8-bit images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.autoencoder import Autoencoder, load_autoencoder
from gmem_model.autoencoder.storage import WEIGHTS_FILE
from gmem_model.images import quantize, quantize_array
from gmem_model.latents import LatentScaling
from gmem_shared.errors import InvalidRequestError, NotReadyError
from gmem_shared.model_config import AutoencoderSpace, LatentSpace, ModelConfig
from gmem_shared.store import OpenVersion


class Decoder:
    """Turns latents of one latent space into images.

    Each image is decoded by itself: it has the same bits in any company, and many take no more
    memory than one.

    Args:
        latent_space: What the network samples.
        autoencoder: What maps its latents to images; none for a network that samples pixels.

    Raises:
        InvalidRequestError: The latent space needs an autoencoder and there is none.
    """

    def __init__(self, latent_space: LatentSpace, autoencoder: Autoencoder | None = None) -> None:
        if isinstance(latent_space, AutoencoderSpace) and autoencoder is None:
            raise InvalidRequestError("expected an autoencoder for the latents of one, found none")
        self._eight_bit = latent_space.eight_bit
        self._scaling = LatentScaling.of(latent_space)
        self._autoencoder = autoencoder

    @classmethod
    def open(
        cls, opened: OpenVersion, config: ModelConfig, device: torch.device | str = "cpu"
    ) -> Decoder:
        """Return the decoder of a model version, to work on a device.

        Raises:
            NotReadyError: The model samples latents and the version holds no autoencoder.
            CorruptVersionError: The autoencoder is not the one of the configuration.
        """
        space = config.latent_space
        if not isinstance(space, AutoencoderSpace):
            return cls(space)
        if WEIGHTS_FILE not in opened.paths:
            raise NotReadyError(
                f"expected {WEIGHTS_FILE} in model {opened.version.ref}, which samples an "
                f"autoencoder's latents, found {sorted(opened.paths)}; import the model again with "
                "--autoencoder FILE"
            )
        autoencoder = load_autoencoder(opened.path(WEIGHTS_FILE), space.autoencoder)
        return cls(space, autoencoder.to(device))

    @property
    def computes(self) -> bool:
        """Whether latents go through a network, which takes long."""
        return self._autoencoder is not None

    def __call__(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decode latents ``(n, C, S, S)`` to images, uint8 ``(n, height, width, channels)``."""
        values = latents
        if self._autoencoder is not None:
            decoded = [self._decode(self._autoencoder, latent) for latent in latents.split(1)]
            values = torch.cat(decoded)
        if values.device.type == "cpu":
            images = quantize_array(values.detach().numpy(), self._eight_bit)
        else:
            images = quantize(values, self._eight_bit).cpu().numpy()
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    @torch.inference_mode()
    def _decode(self, autoencoder: Autoencoder, latent: Tensor) -> Tensor:
        latent = latent.to(next(autoencoder.parameters()).device, torch.float32)
        return autoencoder.decode(self._scaling.to_autoencoder(latent))


def image_shape(config: ModelConfig) -> tuple[int, int, int]:
    """Return height, width and channels of a model's images."""
    a, space = config.architecture, config.latent_space
    if isinstance(space, AutoencoderSpace):
        side = a.input_size * space.autoencoder.factor
        return side, side, space.autoencoder.image_channels
    return a.input_size, a.input_size, a.in_channels
