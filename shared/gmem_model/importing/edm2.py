"""Network snapshots of EDM2: architecture, weights and latent space out of a ``.pkl`` file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from gmem_model.importing.edm2_pickle import (
    Modules,
    Parameter,
    Persistent,
    Storage,
    StoredTensor,
    read_records,
)
from gmem_model.importing.torch_file import read_torch_storage
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import EDM2Architecture

_LATENT_SPACES = {"StandardRGBEncoder": "edm2-rgb", "StabilityVAEEncoder": "edm2-sd-vae"}
"""Classes of the published encoders, and our names for the spaces they map to."""

_POSITIONAL = (
    "img_resolution",
    "img_channels",
    "label_dim",
    "use_fp16",
    "sigma_data",
    "logvar_channels",
)
_RENAMED = {"img_resolution": "input_size", "img_channels": "in_channels"}


@dataclass(frozen=True, slots=True)
class Edm2Snapshot:
    """A network as EDM2's training program saved it.

    Attributes:
        architecture: What the file says the network was made with.
        weights: By the published names, mostly float16.
        latent_space: Name of the space that the network works in, see `LATENT_SPACES`.
    """

    architecture: EDM2Architecture
    weights: dict[str, Tensor]
    latent_space: str


def read_edm2(path: Path) -> Edm2Snapshot:
    """Read a network snapshot of EDM2; nothing in it is executed.

    Raises:
        InvalidRequestError: The file is none, or holds objects that could run code; these are
            named.
    """
    content = read_records(path)
    if not isinstance(content, dict) or not isinstance(content.get("ema"), Persistent):
        raise _unexpected(path, "a network under the key 'ema'", content)
    network = content["ema"]
    if _class_name(path, network) != "Precond":
        raise _unexpected(path, "the network class 'Precond'", _class_name(path, network))
    return Edm2Snapshot(
        architecture=_architecture(path, _state(path, network)),
        weights=_weights(path, network),
        latent_space=_latent_space(path, content.get("encoder")),
    )


def _architecture(path: Path, state: Mapping[str, Any]) -> EDM2Architecture:
    try:
        positional = dict(zip(_POSITIONAL, state["_init_args"], strict=False))
        options = {**positional, **state["_init_kwargs"]}
        options = {_RENAMED.get(name, name): value for name, value in options.items()}
        options.pop("use_fp16", None)  # how the original computes on a GPU
        if options.pop("resample_filter", [1, 1]) != [1, 1]:
            raise _unexpected(path, "the published resample_filter [1, 1]", "another")
        classes = options.pop("label_dim")
        condition = {"kind": "label", "num_classes": classes} if classes else {"kind": "none"}
        return EDM2Architecture.model_validate({**options, "condition": condition})
    except (KeyError, TypeError, ValidationError) as error:
        raise _unexpected(path, "the options of EDM2's network", error) from error


def _latent_space(path: Path, encoder: object) -> str:
    if encoder is None:
        return "edm2-rgb"  # a network on pixels needs none
    name = _class_name(path, encoder)
    if name not in _LATENT_SPACES:
        raise _unexpected(path, f"one of the encoders {', '.join(_LATENT_SPACES)}", name)
    return _LATENT_SPACES[name]


def _weights(path: Path, network: Persistent) -> dict[str, Tensor]:
    """Collect what the modules hold, under their paths as ``state_dict`` would give it."""
    tensors = _Tensors(path)
    weights: dict[str, Tensor] = {}
    pending: list[tuple[str, Any]] = [("", network)]
    seen = set()
    while pending:
        prefix, module = pending.pop()
        if id(module) in seen:
            raise _unexpected(path, "a tree of modules", f"{prefix!r} twice")
        seen.add(id(module))
        state = _state(path, module)
        for group in ("_parameters", "_buffers"):
            held = _members(path, state, group)
            for name in list(held):
                # Taken out, so that only one tensor's bytes exist twice at a time.
                record = held.pop(name)
                if record is not None:
                    weights[prefix + name] = tensors.make(record)
        for name, child in _members(path, state, "_modules").items():
            if child is not None:
                pending.append((f"{prefix}{name}.", child))
    return weights


class _Tensors:
    """Makes tensors of records, and takes no more memory for them than the file is long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes_left = path.stat().st_size

    def make(self, record: object) -> Tensor:
        """Return the tensor that a record describes."""
        try:
            if isinstance(record, Parameter):
                record = record.args[0]
            if not isinstance(record, StoredTensor) or not isinstance(record.args[0], Storage):
                raise _unexpected(self._path, "a tensor", record)
            storage, offset, size, stride = record.args[:4]
            values = self._values(storage)
            if math.prod(size) > len(values):
                raise _unexpected(self._path, f"{math.prod(size)} values", str(len(values)))
            return values.as_strided(size, stride, offset).contiguous()
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise _unexpected(self._path, "a tensor", error) from error

    def _values(self, storage: Storage) -> Tensor:
        (data,) = storage.args
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _unexpected(self._path, "every storage once", "more values than the file holds")
        return read_torch_storage(data, self._path)


def _class_name(path: Path, record: object) -> str:
    return str(_description(path, record).get("class_name"))


def _state(path: Path, module: object) -> Mapping[str, Any]:
    state = module.state if isinstance(module, Modules) else _description(path, module).get("state")
    if not isinstance(state, dict):
        raise _unexpected(path, "what a module of EDM2 consists of", state)
    return state


def _description(path: Path, record: object) -> Mapping[str, Any]:
    if isinstance(record, Persistent) and len(record.args) == 1:
        (description,) = record.args
        if isinstance(description, dict):
            return description
    raise _unexpected(path, "an object of EDM2's training program", record)


def _members(path: Path, state: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return what a module holds of one kind."""
    members = state.get(group)
    if not isinstance(members, dict) or not all(isinstance(name, str) for name in members):
        raise _unexpected(path, f"the {group} of a module by their names", members)
    return members


def _unexpected(path: Path, expected: str, found: object) -> InvalidRequestError:
    shown = found if isinstance(found, str | Exception) else type(found).__name__
    return InvalidRequestError(
        f"{path} is no network snapshot (.pkl) of EDM2: expected {expected}, found {shown}"
    )
