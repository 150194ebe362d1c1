"""Averages of weights whose length is chosen after training (EDM2, arXiv 2312.02696, section 3).

An average with a power-function profile weighs the weights at time s by s^g, up to its own time t.
Averages of any length can be put together from a few stored ones, because all of these are
mixtures of the same weights. Times count training images; the length of an average is stated by
its ``std``, the standard deviation of its profile in units of t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gmem_shared.errors import InvalidRequestError

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Profile:
    """An average's time, in training images, and its length."""

    time: float
    std: float


def std_to_exponent(std: float) -> float:
    """Return the exponent g of the profile of a length (appendix C.2): std² (g+2)² (g+3) = g+1."""
    longest = exponent_to_std((math.sqrt(5) - 3) / 2)  # where its derivative is zero
    if not 0 < std < longest:
        raise InvalidRequestError(
            f"expected the length of an average between 0 and {longest:.3f}, the widest that a "
            f"power function can be; found {std}"
        )
    precision = std**-2
    return float(np.roots([1, 7, 16 - precision, 12 - precision]).real.max())


def exponent_to_std(exponent: float) -> float:
    """Return the length of the profile of an exponent."""
    return float(np.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3))))


def decay(std: float, time: float, images: float) -> float:
    """Return the share of the old average in the new one, after a step.

    Args:
        std: Length of the average.
        time: Images seen after the step.
        images: Images of the step.
    """
    return float((1 - images / time) ** (std_to_exponent(std) + 1))


def response(profile: Profile, count: int) -> NDArray[np.float64]:
    """Return the weights of times 0 … ``count`` - 1 in an average; they sum to 1."""
    times = np.arange(count, dtype=np.float64)
    weights = np.where(times <= profile.time, times / profile.time, 0) ** std_to_exponent(
        profile.std
    )
    return weights / weights.sum()


def coefficients(stored: Sequence[Profile], wanted: Sequence[Profile]) -> NDArray[np.float64]:
    """Return how to mix stored averages into wanted ones (algorithm 3).

    Returns:
        ``(len(stored), len(wanted))``; each column sums to 1 and gives the closest profile in the
        sense of least squares.
    """
    # A least-squares fit of functions: their inner products take the place of sums of products.
    products = _inner_products(stored, stored)
    mixture = np.linalg.solve(products, _inner_products(stored, wanted))
    return mixture / mixture.sum(axis=0)


def reconstruct(
    stored: Iterable[tuple[Profile, Callable[[], Weights]]],
    wanted: Profile,
    *,
    buffers: Collection[str] = (),
) -> Weights:
    """Return the weights of an average of another length.

    One stored state dict is in memory at a time, beside the sum in float32.

    Args:
        stored: Averages and what loads their state dicts. Those later than ``wanted`` are left out.
        wanted: The average to reconstruct.
        buffers: Names of what is no average but is taken from the latest.

    Returns:
        A state dict in the data types of the stored ones.
    """
    used = sorted(
        (pair for pair in stored if pair[0].time <= wanted.time), key=lambda pair: pair[0].time
    )
    if not used:
        raise InvalidRequestError(
            f"expected stored averages up to {wanted.time:.0f} training images, found none"
        )
    shares = coefficients([profile for profile, _ in used], [wanted])[:, 0]
    total: Weights = {}
    for (_, load), share in zip(used, shares, strict=True):
        latest = load()
        for name, value in latest.items():
            if name in buffers:
                total[name] = value
            elif name in total:
                total[name].add_(value.float(), alpha=float(share))
            else:
                total[name] = value.float() * float(share)
    return {name: value.to(latest[name].dtype) for name, value in total.items()}


def _inner_products(rows: Sequence[Profile], columns: Sequence[Profile]) -> NDArray[np.float64]:
    """Return the integral of the product of every two profiles."""
    t, g = (array[:, None] for array in _times_and_exponents(rows))
    u, h = (array[None, :] for array in _times_and_exponents(columns))
    ratio = np.where(t < u, (t / u) ** h, (u / t) ** g)
    return (g + 1) * (h + 1) * ratio / ((g + h + 1) * np.maximum(t, u))


def _times_and_exponents(
    profiles: Sequence[Profile],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    times = np.array([profile.time for profile in profiles], dtype=np.float64)
    return times, np.array([std_to_exponent(profile.std) for profile in profiles])
