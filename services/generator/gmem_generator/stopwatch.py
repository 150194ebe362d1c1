"""Where the time of one request goes."""

from __future__ import annotations

from collections.abc import Callable

from gmem_generator.schemas import Timings
from gmem_shared.types import GeneratedImage

STAGES = ("parse", "plan", "bank", "queue", "denoise", "decode", "handover", "encode", "answer")


class Stopwatch:
    """Seconds by stage. Every moment since the start belongs to one, so that they add up.

    Args:
        clock: Monotonic seconds.
        started: When the request came in.
    """

    def __init__(self, clock: Callable[[], float], started: float) -> None:
        self._clock = clock
        self._started = self._lapped = started
        self._engine = 0.0
        self._last: GeneratedImage | None = None
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def lap(self, stage: str) -> None:
        """Give the time since the last lap to a stage."""
        now = self._clock()
        self.seconds[stage] += now - self._lapped
        self._lapped = now

    def waited(self, image: GeneratedImage | None = None) -> None:
        """Give the time since the last lap to the engine, which has made an image or is done.

        What the engine says of the last image divides it; ``handover`` is what it does not know
        of: the way there and back. Where images were encoded while others were in the making,
        less was waited than the engine needed, and the stages exceed the total.
        """
        now = self._clock()
        self._engine += now - self._lapped
        self._lapped = now
        self._last = image or self._last
        if self._last is not None:
            said = self._last.stages
            handover = max(0.0, self._engine - sum(said.values()))
            self.seconds |= {**said, "handover": handover}

    def timings(self) -> Timings:
        """Return the stages and the total up to now, in milliseconds."""
        stages = {name: round(1000 * seconds, 3) for name, seconds in self.seconds.items()}
        return Timings(**stages, total=round(1000 * self.total, 3))
