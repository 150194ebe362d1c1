"""Latent spaces with the autoencoders that lead into them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from gmem_model.autoencoder import Autoencoder, import_autoencoder
from gmem_model.autoencoder.storage import WEIGHTS_FILE
from gmem_model.decoding import Decoder
from gmem_model.encoding import LatentEncoder
from gmem_model.latents import LatentScaling, latent_space
from gmem_model.weights import assign
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderArchitecture, LatentSpace, PixelSpace

MEASURED_SPACES = frozenset({"va-vae"})
"""Latent spaces whose scaling is measured on the training set."""

_MEASURED_LATENTS = 10_000
"""Latents from which it is measured, as GMem v2 does."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A latent space with the autoencoder that leads into it, if it needs one.

    Attributes:
        name: One of `gmem_model.latents.LATENT_SPACES`.
        digest: Of the autoencoder's file.
    """

    name: str
    architecture: AutoencoderArchitecture | None = None
    autoencoder: Autoencoder | None = None
    digest: str = ""

    @classmethod
    def open(cls, name: str, weights: Path | None) -> Codec:
        """Open a named latent space.

        Args:
            name: One of `gmem_model.latents.LATENT_SPACES`.
            weights: A published autoencoder, unless the network works on pixels.

        Raises:
            InvalidRequestError: The space needs weights and there are none, or the other way round.
        """
        if isinstance(latent_space(name), PixelSpace):
            if weights is not None:
                raise InvalidRequestError(
                    f"expected no autoencoder for the latent space {name}, found {weights}; choose "
                    "another with --latent-space"
                )
            return cls(name)
        if weights is None:
            raise InvalidRequestError(
                f"expected the weights of an autoencoder for the latent space {name}, found none; "
                "give the file with --autoencoder, or work on pixels with --latent-space pixels"
            )
        architecture, tensors = import_autoencoder(weights)
        with torch.device("meta"):
            autoencoder = Autoencoder(architecture)
        loaded = assign(autoencoder, tensors, str(weights)).eval()
        digest = hashlib.sha256(save(loaded.state_dict())).hexdigest()
        return cls(name, architecture, loaded, digest)

    def to(self, device: torch.device) -> Codec:
        """Return the codec on another device."""
        if self.autoencoder is None:
            return self
        return replace(self, autoencoder=self.autoencoder.to(device))

    @property
    def encoder(self) -> LatentEncoder:
        """Encodes pixels without any scaling, which a shard must not depend on."""
        return LatentEncoder(self.space(_unscaled(self.architecture)), self.autoencoder)

    def decoder(self, space: LatentSpace) -> Decoder:
        """Return the way from the network's latents to images."""
        return Decoder(space, self.autoencoder)

    def files(self) -> dict[str, bytes]:
        """Return what a served model needs of it."""
        if self.autoencoder is None:
            return {}
        weights = {name: tensor.cpu() for name, tensor in self.autoencoder.state_dict().items()}
        return {WEIGHTS_FILE: save(weights)}

    def space(self, scaling: LatentScaling | None = None) -> LatentSpace:
        """Return the latent space with its own scaling or a measured one."""
        return latent_space(self.name, autoencoder=self.architecture, scaling=scaling)

    @property
    def is_measured(self) -> bool:
        """Whether the scaling of the space is measured on the training set."""
        return self.name in MEASURED_SPACES

    def rows_to_measure(self, count: int) -> NDArray[np.int64]:
        """Return which of ``count`` latents the scaling is measured on."""
        return np.linspace(0, count - 1, min(count, _MEASURED_LATENTS)).astype(np.int64)


def _unscaled(architecture: AutoencoderArchitecture | None) -> LatentScaling | None:
    if architecture is None:
        return None
    return LatentScaling(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
