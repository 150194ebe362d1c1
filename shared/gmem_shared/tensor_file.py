"""safetensors files that can be memory-mapped: written page-aligned, read without a copy.

The stock writer aligns its payload to 8 bytes. Ours fills the header with the spaces the format
allows, so that the payload starts on a page: row ``r`` of a matrix is then one address computation
away, and the pages are shared by every process that maps the file. Any safetensors reader opens it.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import CorruptVersionError

Array = NDArray[Any]

PAGE_BYTES = 4096
_MAX_HEADER_BYTES = 1 << 20
_LENGTH_BYTES = 8
_NAMES: dict[np.dtype[Any], str] = {
    np.dtype("<f2"): "F16",
    np.dtype("<f4"): "F32",
    np.dtype("<i8"): "I64",
    np.dtype("<u8"): "U64",
    np.dtype("<i4"): "I32",
    np.dtype("<u4"): "U32",
    np.dtype("u1"): "U8",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class Streamed:
    """A tensor that is written while it is made.

    Attributes:
        dtype, shape: Of the whole tensor.
        chunks: Its parts along the first axis, in order.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: Iterable[Array]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.itemsize


def write_tensors(path: Path, tensors: Mapping[str, Array | Streamed]) -> None:
    """Write ``tensors`` to ``path``, the widest element types first.

    Args:
        path: The file to create.
        tensors: Arrays of float16, float32, (u)int64, (u)int32 or uint8, little-endian.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH_BYTES) % PAGE_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.write(text)
        for _, array in ordered:
            for chunk in array.chunks if isinstance(array, Streamed) else (array,):
                np.ascontiguousarray(chunk).tofile(file)


def map_tensors(path: Path) -> dict[str, Array]:
    """Map a file written by :func:`write_tensors`; the arrays are read-only views of the mapping.

    The mapping lives exactly as long as the arrays do.

    Raises:
        CorruptVersionError: The header does not describe the file.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < _LENGTH_BYTES:
            raise _corrupt(path, f"it has {size} bytes, no header")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapping.madvise(mmap.MADV_WILLNEED)
    header, start = _read_header(path, mapping)
    return {name: _view(path, mapping, start, name, entry) for name, entry in header.items()}


def _read_header(path: Path, mapping: mmap.mmap) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(mapping[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > _MAX_HEADER_BYTES or start > len(mapping):
        raise _corrupt(path, f"the header claims {length} bytes")
    try:
        header = dict(json.loads(mapping[_LENGTH_BYTES:start]).items())
    except (ValueError, AttributeError) as error:
        raise _corrupt(path, "the header is not a JSON object") from error
    header.pop("__metadata__", None)
    return header, start


def _view(path: Path, mapping: mmap.mmap, start: int, name: str, entry: Any) -> Array:
    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(int(length) for length in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
        if begin < 0:
            raise ValueError(f"it begins at {begin}")
        array: Array = np.frombuffer(mapping, dtype, (end - begin) // dtype.itemsize, start + begin)
        return array.reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"tensor {name!r} does not fit the file ({error})") from error


def _corrupt(path: Path, what: str) -> CorruptVersionError:
    return CorruptVersionError(
        f"expected a safetensors file in {path.name}, but {what}; publish the version again"
    )
