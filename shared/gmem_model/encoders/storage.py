"""``encoder.json`` and ``encoder.safetensors`` of a model version or a folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from gmem_model.encoders.convnet import ConvNet
from gmem_model.encoders.dinov2 import DinoV2
from gmem_model.encoders.encoder import CONFIG_FILE, WEIGHTS_FILE, EncoderNetwork, SnippetEncoder
from gmem_model.encoders.identity import Identity
from gmem_model.weights import WeightsFile, assign
from gmem_shared.errors import CorruptVersionError, InvalidRequestError, NotFoundError
from gmem_shared.store import OpenVersion

_KINDS: dict[str, type[EncoderNetwork]] = {
    network.kind: network for network in (ConvNet, DinoV2, Identity)
}


class _Config(BaseModel):
    id: str
    kind: str = ConvNet.kind  # the first releases knew no other
    architecture: dict[str, int]


def load(folder: Path) -> SnippetEncoder:
    """Rebuild the encoder whose `SnippetEncoder.files` lie in a folder.

    Raises:
        NotFoundError: There is none.
        CorruptVersionError: The files do not describe an encoder this release knows.
    """
    paths = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for path in paths:
        if not path.is_file():
            raise NotFoundError(f"expected an encoder in {folder}, found no {path.name} there")
    return _load(*paths)


def open_encoder(opened: OpenVersion) -> SnippetEncoder:
    """Rebuild the encoder of a model version.

    Raises:
        NotFoundError: The version holds none.
        CorruptVersionError: As `load`.
    """
    return _load(opened.path(CONFIG_FILE), opened.path(WEIGHTS_FILE))


def _load(config_path: Path, weights_path: Path) -> SnippetEncoder:
    try:
        config = _Config.model_validate_json(config_path.read_bytes())
        if config.kind not in _KINDS:
            raise InvalidRequestError(f"expected one of {sorted(_KINDS)}, found {config.kind!r}")
        network = _KINDS[config.kind](**config.architecture)
        assign(network, WeightsFile(weights_path), weights_path.name)
    except (ValidationError, TypeError, InvalidRequestError) as error:
        raise CorruptVersionError(
            f"expected {config_path.name} and {weights_path.name} to describe an encoder this "
            f"release knows: {error}"
        ) from error
    return SnippetEncoder(config.id, network)
