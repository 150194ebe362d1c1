"""Autoencoders between images and latents: the network, its file, and foreign files."""

from gmem_model.autoencoder.foreign import import_autoencoder
from gmem_model.autoencoder.network import Autoencoder, Posterior
from gmem_model.autoencoder.storage import load_autoencoder

__all__ = ["Autoencoder", "Posterior", "import_autoencoder", "load_autoencoder"]
