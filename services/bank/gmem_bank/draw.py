"""The draw: row ``j`` of a seed's stream, computed alone. Specified in docs/formats/draw.md.

Philox gives 64 uniform bits for (version digest, seed, j); multiply-high maps them to an integer
below the total weight; a binary search in the cumulative weights finds the row. Nothing else
enters, so 1 x 256 rows equal 8 x 32 rows, on any machine and for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gmem_shared.bank_data import BankData
from gmem_shared.errors import OutOfRangeError
from gmem_shared.philox import join64, philox4x32, split64
from gmem_shared.types import DrawSpec

_STREAM_END = 1 << 64
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

Words64 = NDArray[np.uint64]


def draw_rows(data: BankData, spec: DrawSpec) -> NDArray[np.int64]:
    """Return the row numbers of a draw, int64 ``(spec.count,)``.

    Raises:
        OutOfRangeError: Seed or offset do not fit 64 bits, or no row can be drawn.
        UnknownClassError: The bank has no such class.
    """
    _check_stream(spec)
    uniform = uniform64(data.version.digest, spec.seed, spec.offset, spec.count)
    begins, ends = _slices(data, spec.labels)
    cumulative = data.cumulative_weights
    floors = cumulative[begins]
    bounds = np.cumsum(cumulative[ends] - floors)
    if not bounds[-1]:
        raise OutOfRangeError(
            f"expected classes of bank {data.version} that have rows to draw, but "
            f"{_classes(spec)} has none: its rows were deleted or have weight 0"
        )
    target = multiply_high(uniform, bounds[-1])
    chosen = np.searchsorted(bounds, target, side="right")
    before = np.concatenate([np.zeros(1, np.uint64), bounds[:-1]])
    target = target - before[chosen] + floors[chosen]
    rows: NDArray[np.int64] = np.searchsorted(cumulative, target, side="right") - 1
    return rows


def uniform64(digest: str, seed: int, offset: int, count: int) -> Words64:
    """Return the random integers ``offset … offset + count - 1`` of a stream.

    Args:
        digest: ``sha256-<hex>``; its first 16 hexadecimal digits enter, as one integer.
        seed: 0 … 2**64 - 1, the Philox key.
        offset: Number of the first integer.
        count: How many.

    Returns:
        uint64 ``(count,)``, uniform over all values.
    """
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(offset)
    identity = np.uint64(int(digest.partition("-")[2][:16], 16))
    counter = np.empty((count, 4), np.uint32)
    counter[:, 0], counter[:, 1] = split64(numbers)
    counter[:, 2], counter[:, 3] = split64(identity.reshape(1))
    key = np.concatenate(split64(np.array([seed], np.uint64)))
    block = philox4x32(counter, key)
    return join64(block[:, 0], block[:, 1])


def multiply_high(value: Words64, bound: np.uint64) -> Words64:
    """Return ``value * bound >> 64`` without 128-bit integers: uniform below ``bound``."""
    value_low, value_high = value & _LOW, value >> _32
    bound_low, bound_high = bound & _LOW, bound >> _32
    low = value_low * bound_low
    middle = value_high * bound_low + (low >> _32)
    carry = value_low * bound_high + (middle & _LOW)
    high: Words64 = value_high * bound_high + (middle >> _32) + (carry >> _32)
    return high


def _check_stream(spec: DrawSpec) -> None:
    if not 0 <= spec.seed < _STREAM_END:
        raise OutOfRangeError(f"seed: expected 0 … 2**64 - 1, found {spec.seed}")
    if spec.count < 0 or not 0 <= spec.offset <= _STREAM_END - spec.count:
        raise OutOfRangeError(
            f"expected rows of a stream of 2**64, found count {spec.count} at offset {spec.offset}"
        )


def _slices(
    data: BankData, labels: Iterable[int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and end row of each class, ascending; of the whole bank for ``None``."""
    if labels is None:
        return np.array([0]), np.array([len(data)])
    ranges = np.array([data.class_rows(label) for label in sorted(set(labels))])
    if not len(ranges):
        raise OutOfRangeError("labels: expected at least one class, or none given for all classes")
    return ranges[:, 0], ranges[:, 1]


def _classes(spec: DrawSpec) -> str:
    return "the bank" if spec.labels is None else f"class set {sorted(set(spec.labels))[:5]}"
