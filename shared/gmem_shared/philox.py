"""Philox4x32-10, a counter-based random generator.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC'11). A block of
four 32-bit words is a pure function of a 128-bit counter and a 64-bit key, so every value can be
computed alone, in any order, on any machine and in any language. The bank's draw
(`docs/formats/draw.md`) and the engine's noise both stand on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
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
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = key[..., 0], key[..., 1]
    with np.errstate(over="ignore"):
        for _ in range(_ROUNDS):
            product0 = _MULTIPLIERS[0] * c0.astype(np.uint64)
            product1 = _MULTIPLIERS[1] * c2.astype(np.uint64)
            c0, c1, c2, c3 = (
                (product1 >> _32).astype(np.uint32) ^ c1 ^ k0,
                (product1 & _LOW).astype(np.uint32),
                (product0 >> _32).astype(np.uint32) ^ c3 ^ k1,
                (product0 & _LOW).astype(np.uint32),
            )
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return np.stack([c0, c1, c2, c3], axis=-1)


def split64(value: NDArray[np.uint64]) -> tuple[Words, Words]:
    """Split 64-bit integers into their low and high 32-bit words."""
    return (value & _LOW).astype(np.uint32), (value >> _32).astype(np.uint32)


def join64(low: Words, high: Words) -> NDArray[np.uint64]:
    """Join low and high 32-bit words into 64-bit integers."""
    return (high.astype(np.uint64) << _32) | low.astype(np.uint64)
