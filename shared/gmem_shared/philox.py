"""Philox4x32-10, a counter-based random generator.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC'11). A block of
four 32-bit words is a pure function of a 128-bit counter and a 64-bit key, so every value can be
computed alone, in any order, on any machine and in any language. The bank's draw
(`docs/formats/draw.md`) and the engine's noise both stand on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

Words = NDArray[np.uint32]


def philox4x32(counter: Words, key: Words) -> Words:
    """Return the random block of every counter.

    Args:
        counter: uint32 ``(…, 4)``, least significant word first.
        key: uint32 ``(…, 2)``, broadcast against the counters.

    Returns:
        uint32 ``(…, 4)``.
    """
    # Words 0 and 2 are multiplied, words 1 and 3 are not: each pair is one array, in 64 bits.
    words = np.moveaxis(counter, -1, 0).astype(np.uint64)
    even, odd = words[0::2], words[1::2]
    pairs = (2, *(1,) * (words.ndim - 1))
    multipliers, weyl = (np.array(pair, np.uint64).reshape(pairs) for pair in (MULTIPLIERS, WEYL))
    padding = (1,) * (words.ndim - key.ndim)
    keys = np.moveaxis(key, -1, 0).astype(np.uint64).reshape(2, *padding, *key.shape[:-1])
    for _ in range(ROUNDS):
        product = multipliers * even
        even, odd = (product >> _32)[::-1] ^ odd ^ keys, (product & _LOW)[::-1]
        keys = (keys + weyl) & _LOW
    block: Words = np.stack([even[0], odd[0], even[1], odd[1]], axis=-1).astype(np.uint32)
    return block


def split64(value: NDArray[np.uint64]) -> tuple[Words, Words]:
    """Split 64-bit integers into their low and high 32-bit words."""
    return (value & _LOW).astype(np.uint32), (value >> _32).astype(np.uint32)


def join64(low: Words, high: Words) -> NDArray[np.uint64]:
    """Join low and high 32-bit words into 64-bit integers."""
    return (high.astype(np.uint64) << _32) | low.astype(np.uint64)
