"""When the requests of an open loop arrive, whatever the server does.

A closed loop waits for its answers and so slows down with the server, which hides the queue; an
open loop shows it (Schroeder et al., NSDI 2006).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

Process = Callable[[float, float, np.random.Generator], Times]
"""Given rate, seconds and randomness: the sorted arrival times."""


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Times:
    """Return sorted arrival times in [0, seconds), ``rate`` per second, independent of each other.

    Given their number, the arrivals of a Poisson process are uniform.
    """
    return np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))


def bursty(
    rate: float,
    seconds: float,
    rng: np.random.Generator,
    *,
    burst: float = 3.0,
    share: float = 0.2,
    burst_seconds: float = 0.5,
) -> Times:
    """Return sorted arrival times in [0, seconds) of a Poisson process that comes in bursts.

    Quiet and busy phases of exponential lengths alternate (a Markov-modulated Poisson process).

    Args:
        rate: Arrivals per second over the long run.
        seconds: Length of the run.
        rng: Source of the randomness.
        burst: Rate of a busy phase, in units of ``rate``.
        share: Part of the time that is busy; ``burst * share <= 1``.
        burst_seconds: Mean length of a busy phase.
    """
    quiet = (1 - burst * share) / (1 - share)
    quiet_seconds = burst_seconds * (1 - share) / share
    arrivals, start, busy = [], 0.0, bool(rng.random() < share)
    while start < seconds:
        length = rng.exponential(burst_seconds if busy else quiet_seconds)
        arrivals.append(start + poisson(rate * (burst if busy else quiet), length, rng))
        start, busy = start + length, not busy
    times = np.concatenate(arrivals)
    return times[times < seconds]
