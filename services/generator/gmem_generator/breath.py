"""Long work on the event loop, in short pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SECONDS = 0.001


class Breath:
    """Lets everyone else on the event loop have a turn when a millisecond has passed.

    For work that holds the interpreter, a thread would not help: the loop would then wait for it
    up to five milliseconds (``sys.getswitchinterval``) at each of its own turns.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()

    async def __call__(self) -> None:
        """Take a breath if one is due."""
        if self._clock() - self._since > _SECONDS:
            await asyncio.sleep(0)
            self._since = self._clock()
