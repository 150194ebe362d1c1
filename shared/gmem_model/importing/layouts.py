"""Which of the published layouts a checkpoint file has, and the weights in it.

| container | holds | written by |
|---|---|---|
| ``one-file`` | ``network``, ``memorybank``, ``memoryfreq`` | GMem v1 |
| ``training`` | ``ema``, often also ``model``, ``opt``, ``args``, ``steps`` or ``config`` | all |
| ``state-dict`` | the weights themselves, also as safetensors | released files |
| ``snapshot`` | ``ema``, ``encoder``, … in a plain pickle, ``.pkl`` | EDM2 |

The family is told by the names of the weights. One thing they cannot tell: a network for class
labels without projectors may be SiT's or REPA's, whose times run in opposite directions; it is
taken for SiT's.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from gmem_model.importing.edm2 import read_edm2
from gmem_model.importing.torch_file import read_torch_file, state_dict
from gmem_model.published import Family
from gmem_model.weights import WeightsFile
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Architecture

Container = Literal["one-file", "training", "state-dict", "snapshot"]

_reconstruct, _scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"]),
    # numpy 2 moved what numpy 1 files name.
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)
"""What published checkpoints hold beside tensors: a training program's options, frequencies."""

UNDERSTOOD = (
    "{network, memorybank, memoryfreq} of GMem v1; {ema, …} of a training program; a bare state "
    "dict of SiT, REPA or GMem, also as .safetensors; a network snapshot .pkl of EDM2"
)

_GMEM_V2 = re.compile(r"feat_rope\.|projector\.|blocks\.\d+\.(norm1|mlp\.w12)\.")
_FIRST = "x_embedder.proj.weight"
_LEGACY = "decoder_blocks."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network as it was published.

    Attributes:
        weights: By the names that our networks use, too; mapped from the file.
        encoder_depth: The block after which projectors read, if the file tells.
        options: Of the training program, if they are in the file.
        architecture, latent_space: If the file describes them; the latter as the name of one of
            `gmem_model.latents.LATENT_SPACES`.
    """

    family: Family
    container: Container
    weights: dict[str, Tensor]
    encoder_depth: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    architecture: Architecture | None = None
    latent_space: str | None = None


def read_checkpoint(path: Path, family: Family | None = None) -> Checkpoint:
    """Read a file of one of the published layouts; nothing in it is executed.

    Args:
        path: A file of ``torch.save``, ``.safetensors`` or, of EDM2, ``.pkl``.
        family: Overrides what the names of the weights say.

    Raises:
        InvalidRequestError: The file has another layout, or holds objects that could run code.
    """
    is_snapshot = path.suffix == ".pkl"
    if family is not None and is_snapshot != (family == "edm2"):
        raise InvalidRequestError(f"expected EDM2, and only it, as .pkl; found {family} in {path}")
    if is_snapshot:
        snapshot = read_edm2(path)
        return Checkpoint(
            "edm2",
            "snapshot",
            snapshot.weights,
            architecture=snapshot.architecture,
            latent_space=snapshot.latent_space,
        )
    is_torch = path.suffix != ".safetensors"
    content = read_torch_file(path, HARMLESS) if is_torch else WeightsFile(path)
    container, found = _unpack(path, content)
    weights = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    weights, encoder_depth = _without_legacy_names(weights)
    options = _options(content)
    return Checkpoint(
        family or _family(path, weights),
        container,
        weights,
        encoder_depth or options.get("encoder_depth"),
        options,
    )


def _unpack(path: Path, content: Any) -> tuple[Container, dict[str, Tensor]]:
    if isinstance(content, Mapping):
        if {"network", "memorybank", "memoryfreq"} <= content.keys():
            return "one-file", state_dict(content["network"], path)
        for member in ("ema", "model"):
            if isinstance(content.get(member), Mapping):
                return "training", state_dict(content[member], path)
        if any(name in content for name in (_FIRST, f"module.{_FIRST}")):
            return "state-dict", state_dict(content, path)
    raise unknown_layout(path, content)


def _options(content: Mapping[str, Any]) -> Mapping[str, Any]:
    options = content.get("args", content.get("config"))
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return options if isinstance(options, Mapping) else {}


def unknown_layout(path: Path, content: Any) -> InvalidRequestError:
    """Say what a file holds and what could have been read."""
    if isinstance(content, Tensor) or (isinstance(content, Mapping) and {"C", "M"} <= {*content}):
        return InvalidRequestError(
            f"expected the weights of a network in {path}, found a memory bank; publish it with "
            f"`gmem bank import`"
        )
    keys = [str(key) for key in content] if isinstance(content, Mapping) else []
    shown = ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
    what = f"the keys {shown}" if keys else f"a {type(content).__name__}"
    return InvalidRequestError(f"expected one of {UNDERSTOOD} in {path}; found {what}")


def _without_legacy_names(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], int | None]:
    """Number REPA's former ``decoder_blocks``, which begin after the projectors, as ``blocks``."""
    if not any(name.startswith(_LEGACY) for name in weights):
        return weights, None
    first = depth(weights)

    def rename(name: str) -> str:
        if not name.startswith(_LEGACY):
            return name
        number, _, rest = name.removeprefix(_LEGACY).partition(".")
        # What has no number stays as it is and is found to be no weight of the network.
        return f"blocks.{first + int(number)}.{rest}" if number.isdecimal() else name

    return {rename(name): tensor for name, tensor in weights.items()}, first


def depth(names: Mapping[str, Any]) -> int:
    """Return the number of blocks."""
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")})


def _family(path: Path, weights: Mapping[str, Tensor]) -> Family:
    if "condition_projection.linear.weight" in weights:
        return "gmem-v2" if any(_GMEM_V2.match(name) for name in weights) else "gmem-v1"
    if "y_embedder.embedding_table.weight" in weights:
        return "repa" if any(name.startswith("projectors.") for name in weights) else "sit"
    raise unknown_layout(path, weights)
