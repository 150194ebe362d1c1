"""``autoencoder.safetensors`` of a model version."""

from __future__ import annotations

from pathlib import Path

from gmem_model.autoencoder.network import Autoencoder
from gmem_model.weights import WeightsFile, assign, without_weights
from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from gmem_shared.model_config import AutoencoderArchitecture

WEIGHTS_FILE = "autoencoder.safetensors"


def load_autoencoder(path: Path, architecture: AutoencoderArchitecture) -> Autoencoder:
    """Build the autoencoder with the weights of ``path``, in eval mode and float32.

    Raises:
        CorruptVersionError: The file is no safetensors file, or does not fit the architecture.
    """
    with without_weights():
        autoencoder = Autoencoder(architecture)
    try:
        return assign(autoencoder, WeightsFile(path), path.name)
    except InvalidRequestError as error:
        raise CorruptVersionError(error.detail) from error
