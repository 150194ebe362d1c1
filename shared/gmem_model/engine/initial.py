"""The noise that rows start from, computed for many rows at once.

Noise for one small latent costs as much as for thirty: what takes time is the number of array
operations. So whoever needs some has that of the rows that wait computed with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gmem_model import noise
from gmem_model.engine.arrays import Array, Arrays

AHEAD = 4096
"""Values that are computed together, if rows wait that need so many."""

Origin = tuple[int, int]
"""Seed and index of an image, which its noise depends on."""

Upcoming = Callable[[int], Sequence[Origin]]
"""Returns the origins of up to so many rows that will join next."""


class InitialNoise:
    """Standard normal latents.

    Args:
        shape: ``(C, S, S)``.
        arrays: Where they are wanted.
    """

    def __init__(self, shape: tuple[int, int, int], arrays: Arrays) -> None:
        self._shape = shape
        self._arrays = arrays
        self._ahead = AHEAD // math.prod(shape)
        self._known: dict[Origin, Array] = {}

    def take(self, origins: Sequence[Origin], upcoming: Upcoming = lambda _: ()) -> list[Array]:
        """Return the noise of each row, float64 ``(C, S, S)``."""
        missing = [origin for origin in origins if origin not in self._known]
        if missing:
            if len(self._known) > self._ahead:  # of rows that never came
                self._known.clear()
                missing = list(origins)
            others = upcoming(max(0, self._ahead - len(missing)))
            self._compute(list(dict.fromkeys([*missing, *others])))
        noise_of = {origin: self._known.pop(origin) for origin in dict.fromkeys(origins)}
        return [noise_of[origin] for origin in origins]

    def _compute(self, origins: Sequence[Origin]) -> None:
        seeds, indices = self._arrays.integers([(signed(s), index) for s, index in origins]).T
        stages = 0 * indices + noise.INITIAL_LATENT
        computed = self._arrays.normal(seeds, indices, stages, self._shape)
        self._known.update(zip(origins, computed, strict=True))


def signed(seed: int) -> int:
    """Return the signed 64-bit integer with the bits of an unsigned one."""
    return seed - 2**64 if seed >= 2**63 else seed
