"""The draw: row ``j`` of a seed's stream, computed alone. Specified in docs/formats/draw.md.

Philox gives 64 uniform bits for (version digest, seed, j); multiply-high maps them to an integer
below the total weight; a binary search in the cumulative weights finds the row. Nothing else
enters, so 1 x 256 rows equal 8 x 32 rows, on any machine and for ever.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from gmem_shared.bank_data import BankData
from gmem_shared.errors import OutOfRangeError
from gmem_shared.philox import philox4x32, philox64
from gmem_shared.types import DrawSpec

_STREAM_END = 1 << 64
_FEW = 16
"""Up to so many numbers, integers are quicker than arrays: one takes 5 µs, where an array of one
takes 80."""
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

Words64 = NDArray[np.uint64]


def draw_rows(data: BankData, specs: Sequence[DrawSpec]) -> NDArray[np.int64]:
    """Return the row numbers of several draws, one draw after another.

    All draws share one pass through the generator: thirty small requests cost little more than
    one.

    Raises:
        OutOfRangeError: Seed or offset do not fit 64 bits, or no row can be drawn.
        UnknownClassError: The bank has no such class.
    """
    for spec in specs:
        _check_stream(spec)
    scopes = {labels: _Scope.of(data, labels) for labels in {spec.labels for spec in specs}}
    few = sum(spec.count for spec in specs) <= _FEW
    targets = (_few_targets if few else _many_targets)(data.version.digest, specs, scopes)
    rows: NDArray[np.int64] = data.cumulative_weights.searchsorted(targets, side="right") - 1
    return rows


def _few_targets(digest: str, specs: Sequence[DrawSpec], scopes: Scopes) -> Words64:
    """Return a random cumulative weight for every row, without arrays on the way."""
    identity = _identity(digest)
    return np.array(
        [
            scope.locate(philox64(number, identity, spec.seed) * scope.total >> 64)
            for spec in specs
            for scope in (scopes[spec.labels],)
            for number in range(spec.offset, spec.offset + spec.count)
        ],
        np.uint64,
    )


def _many_targets(digest: str, specs: Sequence[DrawSpec], scopes: Scopes) -> Words64:
    counts = [spec.count for spec in specs]
    seeds = np.repeat(np.array([spec.seed for spec in specs], np.uint64), counts)
    numbers = np.concatenate([_numbers(spec) for spec in specs])
    bounds = np.repeat(np.array([scopes[s.labels].total for s in specs], np.uint64), counts)
    targets = multiply_high(uniform64(digest, seeds, numbers), bounds)
    for spec, end in zip(specs, np.cumsum(counts).tolist(), strict=True):
        scopes[spec.labels].locate_all(targets[end - spec.count : end])
    return targets


def _identity(digest: str) -> int:
    return int(digest.partition("-")[2][:16], 16)


def uniform64(digest: str, seeds: Words64, numbers: Words64) -> Words64:
    """Return the random integers number ``numbers[i]`` of the streams ``seeds[i]``.

    Args:
        digest: ``sha256-<hex>``; its first 16 hexadecimal digits enter, as one integer.
        seeds: uint64 ``(n,)``, the Philox keys.
        numbers: uint64 ``(n,)``.

    Returns:
        uint64 ``(n,)``, uniform over all values.
    """
    identity = _identity(digest)
    counter = np.empty((len(numbers), 2), "<u8")
    counter[:, 0], counter[:, 1] = numbers, identity
    key = seeds.astype("<u8", copy=False)[:, np.newaxis]
    # A little-endian 64-bit integer is its two words, the low one first.
    block = philox4x32(counter.view("<u4"), key.view("<u4"))
    return block.view("<u8")[:, 0]


def multiply_high(value: Words64, bound: Words64) -> Words64:
    """Return ``value * bound >> 64`` without 128-bit integers: uniform below ``bound``."""
    value_low, value_high = value & _LOW, value >> _32
    bound_low, bound_high = bound & _LOW, bound >> _32
    low = value_low * bound_low
    middle = value_high * bound_low + (low >> _32)
    high: Words64 = middle >> _32
    if bound_high.any():
        carry = value_low * bound_high + (middle & _LOW)
        high += value_high * bound_high + (carry >> _32)
    return high


@dataclass(frozen=True, slots=True)
class _Scope:
    """The rows a draw may return: one range of rows per class, ascending.

    Attributes:
        floors: Cumulative weight before each range.
        bounds: Running sum of the weights of the ranges.
    """

    floors: list[int]
    bounds: list[int]

    @classmethod
    def of(cls, data: BankData, labels: tuple[int, ...] | None) -> _Scope:
        ranges = [(0, len(data))]
        if labels is not None:
            ranges = [data.class_rows(label) for label in sorted(set(labels))]
        if not ranges:
            raise OutOfRangeError("labels: expected at least one, or none given for all classes")
        weights = data.cumulative_weights
        floors = [int(weights[begin]) for begin, _ in ranges]
        sizes = (int(weights[end]) - floor for (_, end), floor in zip(ranges, floors, strict=True))
        scope = cls(floors, list(accumulate(sizes)))
        if not scope.total:
            named = "the bank" if labels is None else f"class set {sorted(set(labels))[:5]}"
            raise OutOfRangeError(
                f"expected classes of bank {data.version} that have rows to draw, but {named} "
                f"has none: its rows were deleted or have weight 0"
            )
        return scope

    @property
    def total(self) -> int:
        """Weight of all ranges."""
        return self.bounds[-1]

    def locate(self, target: int) -> int:
        """Turn a target below ``total`` into a cumulative weight of the bank."""
        chosen = bisect_right(self.bounds, target)
        return self.floors[chosen] + target - (self.bounds[chosen - 1] if chosen else 0)

    def locate_all(self, targets: Words64) -> None:
        """Do what `locate` does with many, in place."""
        if len(self.floors) == 1:
            targets += np.uint64(self.floors[0])
            return
        bounds, floors = np.array(self.bounds, np.uint64), np.array(self.floors, np.uint64)
        chosen = np.searchsorted(bounds, targets, side="right")
        before = np.concatenate([np.zeros(1, np.uint64), bounds[:-1]])
        targets += floors[chosen] - before[chosen]


Scopes = Mapping[tuple[int, ...] | None, _Scope]
"""By the labels that draws name."""


def _numbers(spec: DrawSpec) -> Words64:
    return np.arange(spec.count, dtype=np.uint64) + np.uint64(spec.offset)


def _check_stream(spec: DrawSpec) -> None:
    if not 0 <= spec.seed < _STREAM_END:
        raise OutOfRangeError(f"seed: expected 0 … 2**64 - 1, found {spec.seed}")
    if spec.count < 0 or not 0 <= spec.offset <= _STREAM_END - spec.count:
        raise OutOfRangeError(
            f"expected rows of a stream of 2**64, found count {spec.count} at offset {spec.offset}"
        )
