"""Reading files of ``torch.save``: tensors and plain values, never code."""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmem_shared.errors import InvalidRequestError

_NAMED_WITHIN = 1 << 20
"""Bytes of a pickle that are searched for a name to show."""


def read_torch_file(
    path: Path, allowed: Sequence[Callable[..., Any] | tuple[Callable[..., Any], str]] = ()
) -> Any:
    """Read what ``torch.save`` wrote; tensors stay in the file until they are used.

    Args:
        path: The file, in torch's zip layout or the older one.
        allowed: Harmless classes and functions beyond torch's own list that the file may name;
            with another name than their own as a pair.

    Raises:
        InvalidRequestError: The file holds anything else, which is named and was not executed, or
            is no such file.
    """
    if not path.is_file():
        raise InvalidRequestError(f"expected a file at {path}, found none; check the path")
    mappable = zipfile.is_zipfile(path)  # the older layout cannot be mapped
    try:
        with torch.serialization.safe_globals([*allowed]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of, it refuses a moment later
            return torch.load(  # noqa: TID251 (the one place)
                path, map_location="cpu", weights_only=True, mmap=mappable
            )
    except Exception as error:  # a malformed or hostile pickle may fail in any way
        raise InvalidRequestError(_refusal(path, str(error))) from error


def read_torch_storage(data: bytes, source: Path) -> Tensor:
    """Read the bytes that ``torch.save`` made of one storage, as a tensor of one axis.

    Raises:
        InvalidRequestError: They hold anything else, which is named and was not executed.
            ``source`` is the file that they come from.
    """
    try:
        storage = torch.load(  # noqa: TID251 (the other place)
            io.BytesIO(data), map_location="cpu", weights_only=True
        )
    except Exception as error:  # a malformed or hostile pickle may fail in any way
        raise InvalidRequestError(_refusal(source, str(error))) from error
    if not isinstance(storage, torch.storage.TypedStorage):
        raise InvalidRequestError(
            f"expected the values of a tensor in {source}, found a {type(storage).__name__}"
        )
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


def state_dict(values: object, source: Path) -> dict[str, Tensor]:
    """Return ``values`` as the state dict it must be.

    Raises:
        InvalidRequestError: It does not map names to tensors.
    """
    if not isinstance(values, Mapping) or not values:
        raise InvalidRequestError(
            f"expected weights by their names in {source}, found {type(values).__name__}"
        )
    for name, value in values.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InvalidRequestError(
                f"expected every entry of {source} to be a tensor under a name, found "
                f"{type(value).__name__} under {name!r}"
            )
    return dict(values)


def _refusal(path: Path, reason: str) -> str:
    found = re.search(r"GLOBAL (\S+)", reason)
    name = found[1] if found else next(_named_objects(path), None)
    if name:
        return (
            f"{path} is refused: expected tensors and plain values, found the object {name!r}, "
            "which could run code; nothing was executed. Save the weights alone, for example as "
            "safetensors, on a machine that may trust the file"
        )
    # Around its reason torch advises to load the file without restriction: never repeat that.
    told = re.search(r"WeightsUnpickler error: (.*)", reason)
    first_line = told[1] if told else reason.strip().partition("\n")[0]
    return f"{path} is refused: expected a file written by torch.save, found: {first_line}"


def _named_objects(path: Path) -> Iterator[str]:
    """Name what a bare pickle in the newer notation refers to; torch stops before it gets there."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            start = file.read(_NAMED_WITHIN)
        for opcode, argument, _ in pickletools.genops(start):
            if opcode.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, OSError):  # it is no pickle, or goes on
        return
