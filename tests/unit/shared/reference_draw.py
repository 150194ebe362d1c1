"""The draw once more, in plain Python integers, from docs/formats/draw.md alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

MASK = (1 << 32) - 1


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    words, (k0, k1) = list(counter), key
    for _ in range(10):
        first, second = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            (second >> 32) ^ words[1] ^ k0,
            second & MASK,
            (first >> 32) ^ words[3] ^ k1,
            first & MASK,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return words


def uniform(digest: str, seed: int, number: int) -> int:
    identity = int(digest.removeprefix("sha256-")[:16], 16)
    counter = [number & MASK, number >> 32, identity & MASK, identity >> 32]
    words = philox(counter, [seed & MASK, seed >> 32])
    return words[0] + (words[1] << 32)


def draw(
    digest: str,
    seed: int,
    number: int,
    weights: Sequence[int],
    row_labels: Sequence[int],
    labels: Sequence[int] | None,
) -> int:
    """One row; a linear filter over rows sorted by label instead of ranges."""
    rows = [r for r, label in enumerate(row_labels) if labels is None or label in labels]
    cumulative = list(accumulate(weights[r] for r in rows))
    target = uniform(digest, seed, number) * cumulative[-1] >> 64
    return rows[bisect_right(cumulative, target)]
