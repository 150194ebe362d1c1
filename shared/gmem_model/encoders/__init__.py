"""Snippet encoders: from an image to the vector by which a bank remembers it."""

from gmem_model.encoders.encoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    EncoderNetwork,
    Features,
    SnippetEncoder,
)
from gmem_model.encoders.storage import load, open_encoder

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "EncoderNetwork",
    "Features",
    "SnippetEncoder",
    "load",
    "open_encoder",
]
