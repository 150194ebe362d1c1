"""What must hold of the rows of a bank before a version of them is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmem_shared.bank_data import shorten
from gmem_shared.bank_rows import Rows
from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import ClassInfo

Integer = TypeVar("Integer", bound=np.integer[Any])

UNLABELLED = -1
MAX_TOTAL_WEIGHT = 1 << 48
"""Keeps the bias of a draw below 2**-16 of a row's probability (docs/formats/draw.md)."""

_NORM_TOLERANCE = 0.01


def check_columns(
    vectors: Rows,
    labels: NDArray[np.int32],
    source_ids: NDArray[np.int64],
    weights: NDArray[np.uint32],
    classes: Sequence[ClassInfo],
) -> None:
    """Refuse columns that do not belong to one bank; the vectors themselves are not read.

    Raises:
        InvalidRequestError: Naming the array, what was expected and the first offending rows.
    """
    _check_shapes(vectors, labels, source_ids, weights)
    _check_classes(labels, classes)
    _check_total_weight(weights)


def check_vectors(
    vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64], *, normalized: bool
) -> None:
    """Refuse vectors ``(m, d)`` that cannot be served; ``rows`` ``(m,)`` are their numbers.

    Raises:
        InvalidRequestError: Naming what was expected and the first offending rows.
    """
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    if normalized:
        usable &= np.abs(norms - 1) <= _NORM_TOLERANCE
    if not usable.all():
        bad = np.sort(rows[~usable]).tolist()
        wanted = "of length 1" if normalized else "finite and not zero"
        raise invalid("vectors", f"expected vectors {wanted}; rows {shorten(bad)} are not")


def invalid(field: str, message: str) -> InvalidRequestError:
    """Describe one unacceptable input of a bank."""
    return InvalidRequestError(f"{field}: {message}", errors=[{"field": field, "message": message}])


def as_integers(field: str, values: NDArray[Any], dtype: type[Integer]) -> NDArray[Integer]:
    """Convert values that are integers and fit; raises `InvalidRequestError`."""
    limits = np.iinfo(dtype)
    if values.dtype.kind not in "iu":
        raise invalid(field, f"expected integers, found {values.dtype}")
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise invalid(
            field,
            f"expected integers in {limits.min} … {limits.max}, "
            f"found {values.min()} … {values.max()}",
        )
    return values.astype(dtype)


def _check_shapes(
    vectors: Rows,
    labels: NDArray[np.int32],
    source_ids: NDArray[np.int64],
    weights: NDArray[np.uint32],
) -> None:
    if len(vectors.shape) != 2 or 0 in vectors.shape or vectors.dtype.kind != "f":
        raise invalid(
            "vectors",
            f"expected floating-point numbers (n, d) with n, d >= 1, "
            f"found {vectors.dtype} {vectors.shape}",
        )
    rows = vectors.shape[0]
    for field, array in (("labels", labels), ("source_ids", source_ids), ("weights", weights)):
        if array.shape != (rows,):
            raise invalid(
                field, f"expected one value for each of {rows} rows, found shape {array.shape}"
            )


def _check_classes(labels: NDArray[np.int32], classes: Sequence[ClassInfo]) -> None:
    ids = [info.id for info in classes]
    if len(set(ids)) != len(ids) or any(label < 0 for label in ids):
        raise invalid("classes", "expected unique ids >= 0")
    names = Counter(name for info in classes for name in {info.name, *info.aliases})
    ambiguous = [name for name, count in names.items() if count > 1]
    if ambiguous:
        raise invalid("classes", f"expected names of one class each, found {shorten(ambiguous)}")
    unknown = sorted(set(np.unique(labels).tolist()) - {*ids, UNLABELLED})
    if unknown:
        raise invalid(
            "labels", f"expected the id of a class or {UNLABELLED}, found {shorten(unknown)}"
        )


def _check_total_weight(weights: NDArray[np.uint32]) -> None:
    total = int(weights.sum(dtype=np.uint64))
    if not 0 < total <= MAX_TOTAL_WEIGHT:
        raise invalid("weights", f"expected a sum of 1 … {MAX_TOTAL_WEIGHT}, found {total}")
