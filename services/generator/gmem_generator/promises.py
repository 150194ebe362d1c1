"""What refused clients were told: come back then, and there will be room."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

HORIZON_SECONDS = 60
"""Nobody is promised room later than this; whoever is told this long comes back as a newcomer."""

_SLOTS_PER_SECOND = 4
_SLOT_WORK_SECONDS = 0.9 / _SLOTS_PER_SECOND
_SLOT_REQUESTS = 256
"""More different requests are not remembered for one slot, however little work they are."""
_GRACE_SLOTS = 2 * _SLOTS_PER_SECOND
"""How late a client may be."""


@dataclass(slots=True)
class _Slot:
    work_seconds: float = 0.0
    requests: Counter[Hashable] = field(default_factory=Counter)

    def has_room(self, work_seconds: float) -> bool:
        return (
            self.work_seconds + work_seconds <= _SLOT_WORK_SECONDS
            and len(self.requests) < _SLOT_REQUESTS
        )


class Promises:
    """A timetable of put-off work, in slots of a quarter of a second.

    ``Retry-After`` is in whole seconds, so a client can only come back that many seconds after it
    was refused; it is given the first of these slots that has room for its work. A client that
    comes back is known by asking for the same thing at its time. Equal requests are
    interchangeable: where one caller asks often for the same, any of these takes the place.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: dict[int, _Slot] = {}

    @property
    def any(self) -> bool:
        """Whether somebody may still come back."""
        if self._slots:
            oldest = self._slot() - _GRACE_SLOTS
            for number in [number for number in self._slots if number < oldest]:
                del self._slots[number]
        return bool(self._slots)

    def make(self, request: Hashable, work_seconds: float, earliest: float) -> int:
        """Return after how many seconds a client shall come back.

        Args:
            request: What stands for it and for what it asks; it is kept.
            work_seconds: How long that takes.
            earliest: Seconds until there can be room.
        """
        now = self._slot()
        for wait in range(max(1, math.ceil(earliest)), HORIZON_SECONDS):
            number = now + _SLOTS_PER_SECOND * wait
            slot = self._slots.get(number)
            if slot is None or slot.has_room(work_seconds):
                slot = self._slots.setdefault(number, _Slot())
                slot.work_seconds += work_seconds
                slot.requests[request] += 1
                return wait
        return HORIZON_SECONDS

    def keep(self, request: Hashable) -> bool:
        """Return whether a client was told to come now; once for each time it was told."""
        slot = self._promised(request)
        if slot is None:
            return False
        slot.requests[request] -= 1
        return True

    def expects(self, request: Hashable) -> bool:
        """Return whether a client was told to come now."""
        return self._promised(request) is not None

    def _promised(self, request: Hashable) -> _Slot | None:
        now = self._slot()
        slots = map(self._slots.get, range(now - _GRACE_SLOTS, now + 1))
        return next((slot for slot in slots if slot and slot.requests[request]), None)

    def _slot(self) -> int:
        return int(self._clock() * _SLOTS_PER_SECOND)
