"""Deletion plans: what a garbage collector announces before it deletes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from uuid import uuid4

from gmem_shared.errors import ConflictError
from gmem_shared.store.layout import Layout
from gmem_shared.store.objects import Objects
from gmem_shared.store.records import Journal, Record


class Plan(Record):
    """What a collector is going to delete, until ``sweep_until`` at the latest.

    Until ``expires_at`` nothing it names may be made live again. ``id`` makes each plan unique.
    """

    created_at: datetime
    sweep_until: datetime
    expires_at: datetime
    paths: tuple[str, ...]
    id: str


class Plans:
    """The plans of one bank or model, of which the newest counts.

    Finishing a plan appends an empty one.
    """

    def __init__(self, objects: Objects, layout: Layout, clock: Callable[[], datetime]) -> None:
        self._journal = Journal(objects, layout.plans, Plan)
        self._layout = layout
        self._clock = clock

    @property
    def newest_path(self) -> str:
        """Path of the newest plan, which must stay."""
        return self._journal.path(self._journal.newest())

    def refuse_planned(self, paths: Iterable[str]) -> None:
        """Refuse to make objects live that are about to be deleted.

        Raises:
            ConflictError: A plan in force names one of them; says when to try again.
        """
        plan = self._in_force()
        planned = set(plan.paths).intersection(paths) if plan else set()
        if plan and planned:
            raise ConflictError(
                f"a garbage collection of {self._layout.root} is about to delete "
                f"{min(planned)} and {len(planned) - 1} more objects: try again after "
                f"{plan.expires_at:%Y-%m-%d %H:%M:%S %Z}",
                retry_after_seconds=(plan.expires_at - self._clock()).total_seconds(),
            )

    def announce(self, paths: Iterable[str], settle: timedelta, window: timedelta) -> Plan:
        """Put a plan in force.

        Args:
            paths: What will be deleted.
            settle: Time before the first deletion, and after the last before the plan expires;
                longer than anybody takes from `refuse_planned` to the record that makes live.
            window: Time for the deletions.

        Raises:
            ConflictError: Another plan is in force.
        """
        newest = self._journal.newest()
        now = self._clock()
        plan = Plan(
            created_at=now,
            sweep_until=now + settle + window,
            expires_at=now + settle + window + settle,
            paths=tuple(paths),
            id=uuid4().hex,
        )
        if self._in_force() or not self._journal.create(newest + 1, plan):
            raise ConflictError(f"another garbage collection of {self._layout.root} is running")
        return plan

    def finish(self, plan: Plan) -> None:
        """End a plan, unless it expired and another one took over."""
        newest = self._journal.newest()
        if self._journal.read(newest) == plan:
            self._journal.create(
                newest + 1, plan.model_copy(update={"paths": (), "id": uuid4().hex})
            )

    def _in_force(self) -> Plan | None:
        newest = self._journal.newest()
        plan = self._journal.read(newest) if newest else None
        return plan if plan and plan.paths and self._clock() < plan.expires_at else None
