"""Memory banks as GMem published them, read without executing them and without holding them.

| layout | holds |
|---|---|
| ``gmem-v1`` | ``{network, memorybank, memoryfreq}``, or a bare tensor beside a ``.freq`` file |
| ``full`` | a bare tensor of raw snippets (GMem v2), also as ``.npy`` |
| ``dmd`` | ``{C, M, S, mean, …}``, the compressed form; ``dmdfaster`` is the same file |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gmem_model.importing.layouts import HARMLESS
from gmem_model.importing.torch_file import plain_tensor, read_torch_file
from gmem_model.memory import CompressedBank
from gmem_shared.bank_rows import FileRows, Rows
from gmem_shared.errors import InvalidRequestError

Layout = Literal["gmem-v1", "full", "dmd"]

_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class ForeignBank:
    """A bank file.

    Attributes:
        vectors: Fetched from the file when they are asked for, in its order.
        frequencies: int64 ``(n,)``, or ``None`` if all rows are drawn alike.
        factors: Of a compressed bank: ``coefficients``, ``basis``, ``scales`` and ``mean``.
    """

    layout: Layout
    vectors: Rows
    frequencies: NDArray[np.int64] | None = None
    factors: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """The snippets of a compressed bank."""

    bank: CompressedBank

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, d)``."""
        return len(self.bank), len(self.bank.mean)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Decode rows ``(m, d)``."""
        return self.bank[rows]


def read_bank(path: Path, frequencies: Path | None = None) -> ForeignBank:
    """Read a bank of one of the published layouts.

    Args:
        path: The bank.
        frequencies: The file of a GMem v1 bank's frequencies; by default the sibling with the
            suffix ``.freq``, if there is one.

    Raises:
        InvalidRequestError: The file has another layout, or holds objects that could run code.
    """
    if path.suffix == ".npy":
        return ForeignBank("full", FileRows.of_npy(path), _sibling(path, frequencies))
    content = read_torch_file(path, HARMLESS)
    if isinstance(content, Tensor):
        counts = _sibling(path, frequencies)
        layout: Layout = "full" if counts is None else "gmem-v1"
        return ForeignBank(layout, _rows(path, None, content), counts)
    keys = {*content} if isinstance(content, Mapping) else set()
    if {"memorybank", "memoryfreq"} <= keys and isinstance(content["memorybank"], Tensor):
        vectors = _rows(path, "memorybank", content["memorybank"])
        return ForeignBank("gmem-v1", vectors, _counts(content["memoryfreq"], path))
    if {"C", "M", "S", "mean"} <= keys:
        bank = _compressed(path, content)
        factors = {field.name: getattr(bank, field.name) for field in fields(bank)}
        return ForeignBank("dmd", DecodedRows(bank), factors=factors)
    found = f"the keys {', '.join(sorted(map(str, keys))[:8])}" if keys else type(content).__name__
    raise InvalidRequestError(
        f"expected a bank of GMem in {path}: {{network, memorybank, memoryfreq}}, a bare matrix, "
        f"{{C, M, S, mean}} or .npy; found {found}"
    )


def _rows(path: Path, member: str | None, tensor: Tensor) -> Rows:
    """Describe where the rows lie; what cannot be read in place is mapped or converted."""
    tensor = plain_tensor(tensor, member or "the bank", path)
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise InvalidRequestError(
            f"expected snippets as a matrix (n, d) of floating-point numbers in {path}, found "
            f"{tensor.dtype} {tuple(tensor.shape)}"
        )
    if tensor.dtype not in _NUMPY_FLOATS:
        return tensor.float().numpy()
    offset = _offset(path, member)
    mapped = tensor.numpy()
    if offset is None or not tensor.is_contiguous():
        return mapped
    skipped = int(tensor.storage_offset()) * tensor.element_size()
    return FileRows(path, offset + skipped, mapped.dtype, mapped.shape)


def _offset(path: Path, member: str | None) -> int | None:
    """Return where the numbers of a tensor begin in a file; ``None`` for torch's older layout."""
    with FakeTensorMode():  # describes tensors instead of reading them
        content = read_torch_file(path, HARMLESS)
    tensor = content if member is None else content[member]
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return None if offset is None else int(offset)


def _sibling(path: Path, frequencies: Path | None) -> NDArray[np.int64] | None:
    file = frequencies or path.with_suffix(".freq")
    if frequencies is None and not file.is_file():
        return None
    return _counts(read_torch_file(file, HARMLESS), file)


def _counts(values: Any, path: Path) -> NDArray[np.int64]:
    """Accept what anyone might have saved counts as: list, tuple, array or tensor."""
    try:
        counts = np.asarray(values)
        with np.errstate(invalid="ignore"):  # what is no number is unlike its integer
            whole = counts.astype(np.int64)
        if counts.ndim != 1 or counts.dtype.kind not in "iuf" or (whole != counts).any():
            raise ValueError(f"{counts.dtype} {counts.shape}")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InvalidRequestError(
            f"expected the frequencies in {path} to be one whole number per snippet: {error}"
        ) from error
    return whole


def _compressed(path: Path, content: Mapping[str, Any]) -> CompressedBank:
    c, m, s, mean = (
        plain_tensor(content[name], name, path).float().numpy() for name in ("C", "M", "S", "mean")
    )
    fitting = (c.ndim, s.ndim, mean.ndim) == (2, 1, 1) and m.shape == (len(mean), len(s))
    if not fitting or c.shape[1] != len(s):
        raise InvalidRequestError(
            f"expected C (n, k), M (d, k), S (k,) and mean (d,) in {path}, found "
            f"{c.shape}, {m.shape}, {s.shape} and {mean.shape}"
        )
    return CompressedBank(c, m, s, mean)
