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
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    for k0, k1 in zip(*(_round_keys(key[..., i], WEYL[i]) for i in range(2)), strict=True):
        low0, high0 = _multiply(c0, MULTIPLIERS[0])
        low1, high1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return np.stack([c0, c1, c2, c3], axis=-1)


def _round_keys(word: Words, weyl: int) -> Words:
    """Return one word of the key in every round, ``(10, …)``."""
    bumps = np.arange(ROUNDS, dtype=np.uint32) * np.uint32(weyl)
    keys: Words = word + bumps.reshape(ROUNDS, *(1,) * word.ndim)
    return keys


def _multiply(words: Words, factor: int) -> tuple[Words, Words]:
    """Return the low and the high word of each product, as views of it: no shift, no mask."""
    product = np.multiply(words[..., np.newaxis], np.uint64(factor), dtype="<u8")
    halves: Words = product.view("<u4")
    return halves[..., 0], halves[..., 1]


def split64(value: NDArray[np.uint64]) -> tuple[Words, Words]:
    """Split 64-bit integers into their low and high 32-bit words."""
    return (value & _LOW).astype(np.uint32), (value >> _32).astype(np.uint32)


def join64(low: Words, high: Words) -> NDArray[np.uint64]:
    """Join low and high 32-bit words into 64-bit integers."""
    return (high.astype(np.uint64) << _32) | low.astype(np.uint64)


def philox64(low: int, high: int, key: int) -> int:
    """Return the first 64 bits of one block, as `philox4x32` has them, without arrays.

    Args:
        low: The lower half of the counter.
        high: The upper half.
        key: All of the key.
    """
    word = 0xFFFFFFFF
    c0, c1, c2, c3 = low & word, low >> 32, high & word, high >> 32
    k0, k1 = key & word, key >> 32
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & word
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & word
        k0, k1 = (k0 + WEYL[0]) & word, (k1 + WEYL[1]) & word
    return c1 << 32 | c0
