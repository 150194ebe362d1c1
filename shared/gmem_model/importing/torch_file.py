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
        raise InvalidRequestError(_refusal(path, str(error) or type(error).__name__)) from error


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
        raise InvalidRequestError(_refusal(source, str(error) or type(error).__name__)) from error
    if not isinstance(storage, torch.storage.TypedStorage):
        raise InvalidRequestError(
            f"expected the values of a tensor in {source}, found a {type(storage).__name__}"
        )
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


def state_dict(values: object, source: Path) -> dict[str, Tensor]:
    """Return ``values`` as the state dict it must be.

    Raises:
        InvalidRequestError: It does not map names to tensors, see `plain_tensor`.
    """
    if not isinstance(values, Mapping) or not values:
        raise InvalidRequestError(
            f"expected weights by their names in {source}, found {type(values).__name__}"
        )
    other = next((name for name in values if not isinstance(name, str)), None)
    if other is not None:
        raise InvalidRequestError(f"expected names as keys in {source}, found {other!r}")
    return {name: plain_tensor(value, name, source) for name, value in values.items()}


def plain_tensor(value: object, name: str, source: Path) -> Tensor:
    """Return ``value`` as the tensor it must be, without gradient: numbers that lie in the file.

    A file may also describe tensors without values, or repeat a few values until they fill any
    memory.

    Raises:
        InvalidRequestError: It is something else. ``name`` says where in ``source`` it is.
    """
    if not isinstance(value, Tensor):
        found = type(value).__name__
    elif value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        found = f"a tensor of another kind ({value.layout}, {value.dtype}, {value.device})"
    elif value.nbytes > value.untyped_storage().nbytes():
        found = f"shape {tuple(value.shape)} on {value.untyped_storage().nbytes()} bytes"
    else:
        return value.detach()
    raise InvalidRequestError(f"expected {name!r} in {source} to be a tensor, found {found}")


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
    told = re.search(r"WeightsUnpickler error:\s*(.*)", reason)
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
