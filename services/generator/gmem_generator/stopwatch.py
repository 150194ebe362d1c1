"""Where the time of one request goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gmem_generator.schemas import Timings
from gmem_shared.types import GeneratedImage


class Stopwatch:
    """Seconds by stage; starts when it is made.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self.seconds = dict.fromkeys(("queue", "bank", "denoise", "decode", "encode"), 0.0)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time the block takes to a stage."""
        started = self._clock()
        try:
            yield
        finally:
            self.seconds[name] += self._clock() - started

    def engine(self, image: GeneratedImage) -> None:
        """Take the engine's stages from an image; the last one to finish decides the total."""
        self.seconds["queue"] = image.queue_seconds
        self.seconds["denoise"] = image.denoise_seconds
        self.seconds["decode"] = image.decode_seconds

    def timings(self) -> Timings:
        """Return the stages and the total up to now, in milliseconds."""
        stages = {name: round(1000 * seconds, 3) for name, seconds in self.seconds.items()}
        return Timings(**stages, total=round(1000 * self.total, 3))
