"""Admission: a bounded number of unfinished images, and an honest answer when it is reached.

Who is refused is told when to come back, and finds room then: put-off work has a time each, one
after the other at the pace of the engine, and while there is any, newcomers get only half of the
places. They always get these, so that the engine works on although nobody comes back.

A refusal must cost little, as there may be many: from the first one until some places are free
again, newcomers are refused before anybody looks at what they ask for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from gmem_generator.metrics import Metrics
from gmem_generator.promises import Promises
from gmem_shared.errors import OverloadedError

_HALF_LIFE_SECONDS = 10.0

_OPEN_AGAIN = 1 / 16
"""Share of the places that is free when newcomers are looked at again."""

_MEMORY = 0.9
"""Weight of what earlier requests asked for, in what is assumed of one that is not looked at."""

_FREE = 0.75
"""Put-off work begins when so much of the places is taken: a margin for a pace misjudged."""


class Throughput:
    """Evaluations finished per second of being busy; the past counts half every 10 s."""

    def __init__(self) -> None:
        self._evaluations = 0.0
        self._seconds = 0.0

    def record(self, evaluations: int, busy_seconds: float) -> None:
        """Account for work that ended ``busy_seconds`` after the end of the work before."""
        kept = 0.5 ** (busy_seconds / _HALF_LIFE_SECONDS)
        self._evaluations = kept * self._evaluations + evaluations
        self._seconds = kept * self._seconds + busy_seconds

    def seconds(self, evaluations: float) -> float:
        """Return how long this much work takes; 0 while nothing was measured."""
        return evaluations * self._seconds / self._evaluations if self._evaluations else 0.0


class Ticket:
    """The right to have some images made."""

    def __init__(self, admission: Admission, images: int, steps: int, kind: Hashable) -> None:
        self._admission = admission
        self.images = images
        self.steps = steps
        self.kind = kind

    def finished(self, evaluations: int) -> None:
        """Account for one finished image."""
        self._admission.finished(self, evaluations)


class Admission:
    """Counts admitted, unfinished images and estimates how long they will take.

    Args:
        limit: Most images that may be admitted and unfinished.
        clock: Monotonic seconds.
    """

    def __init__(self, limit: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._throughput = Throughput()
        self._promises = Promises(clock)
        self._steps: Counter[Hashable] = Counter()  # of unfinished images, by kind
        self._evaluations_per_step: dict[Hashable, float] = {}  # learnt: a Heun step costs two
        self._busy_since = 0.0
        self._closed = False
        self._work = 0.0  # evaluations that a request asks for
        self.images = 0
        """Images admitted and not yet finished."""
        metrics.images_waiting.set_function(lambda: self.images)
        metrics.backlog_seconds.set_function(lambda: self.backlog_seconds)

    @property
    def backlog_seconds(self) -> float:
        """Estimated time to finish what was admitted; 0 while nothing was measured."""
        return self._throughput.seconds(
            sum(self._evaluations(steps, kind) for kind, steps in self._steps.items())
        )

    def spare(self, images: int) -> bool:
        """Return whether work that can wait would leave half of the places to work that cannot."""
        return self.images == 0 or self.images + images <= self._limit // 2

    def gate(self, request: Hashable) -> None:
        """Let a request pass that may find room; it is not known yet what it asks for.

        Raises:
            OverloadedError: The server is full, and nobody told this client to come now.
        """
        if not self._closed or self._promises.expects(request):
            return
        room = self._newcomers_room()
        self._closed = self.images > room - math.ceil(_OPEN_AGAIN * room)
        if self._closed:
            raise self._overloaded(0, self._work, request)

    @contextmanager
    def admit(
        self, images: int, steps: int, kind: Hashable, request: Hashable = None
    ) -> Iterator[Ticket]:
        """Hold a place for ``images`` until each is finished or the block ends.

        Images of one ``kind`` need equally many evaluations per step. ``request`` is what is asked
        for: a client who was refused is known by it when it comes back.

        Raises:
            OverloadedError: There is no room; says when there will be.
        """
        work = self._evaluations(images * steps, kind)
        self._work = _MEMORY * self._work + (1 - _MEMORY) * work
        if self.images + images > self._room(request):
            self._closed = True
            raise self._overloaded(images, work, request)
        if self.images == 0:
            self._busy_since = self._clock()
        ticket = Ticket(self, images, steps, kind)
        self._change(ticket, images)
        try:
            yield ticket
        finally:
            self._change(ticket, -ticket.images)

    def finished(self, ticket: Ticket, evaluations: int) -> None:
        """Account for one finished image of a ticket."""
        now = self._clock()
        self._throughput.record(evaluations, now - self._busy_since)
        self._evaluations_per_step[ticket.kind] = evaluations / ticket.steps
        self._busy_since = now
        ticket.images -= 1
        self._change(ticket, -1)

    def _change(self, ticket: Ticket, images: int) -> None:
        self.images += images
        self._steps[ticket.kind] += images * ticket.steps

    def _evaluations(self, steps: int, kind: Hashable) -> float:
        return steps * self._evaluations_per_step.get(kind, 1.0)

    def _room(self, request: Hashable) -> int:
        """Return how many images may be unfinished with those of a request."""
        return self._limit if self._promises.keep(request) else self._newcomers_room()

    def _newcomers_room(self) -> int:
        return max(1, self._limit // 2) if self._promises.any else self._limit

    def _overloaded(self, images: int, work: float, request: Hashable) -> OverloadedError:
        """Return the refusal of so many images; 0: it is not known how many."""
        excess = max(0.0, self.images + images - _FREE * self._limit)
        earliest = self.backlog_seconds * min(1.0, excess / max(self.images, 1))
        wait = self._promises.make(request, self._throughput.seconds(work), earliest)
        asked = f", and {images} more asked for" if images else ""
        return OverloadedError(
            f"expected at most {self._limit} unfinished images, found {self.images}, those that "
            f"were put off{asked}; try again in {wait} s or ask for fewer",
            retry_after_seconds=wait,
        )
