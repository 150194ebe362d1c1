"""Which process makes which rows of a task: arithmetic only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gmem_shared.store.layout import is_alias
from gmem_shared.types import GenerationTask, Reference, VersionRef

SMALLEST_PART = 4
"""Rows that are worth a process of their own.

One evaluation has a fixed cost: for a small network on one core, that of about two rows. Four rows
in one process take less than half of the processor time of one row in each of four.
"""

_UNKNOWN_STEPS = 32


def cost_per_row(task: GenerationTask) -> int:
    """Return what a row of a task weighs: its steps, or a guess where the model decides."""
    return task.num_steps or _UNKNOWN_STEPS


def may_be_divided(reference: Reference) -> bool:
    """Return whether every process would take the same version for a task.

    An alias may lead elsewhere in another process, for the moment in which it moves.
    """
    return not is_alias(reference.selector)


def is_among(versions: Collection[VersionRef], reference: Reference) -> bool:
    """Return whether the version that a reference leads to is among these.

    Whoever holds any version of a model is taken to hold the one that an alias leads to.
    """
    return any(
        version.name == reference.name
        and (
            is_alias(reference.selector) or reference.selector in (version.digest, str(version.seq))
        )
        for version in versions
    )


def divide(
    rows: int, cost: int, backlogs: Sequence[int], smallest: int = SMALLEST_PART
) -> list[int]:
    """Return how many of a task's rows each process makes, so that the last row ends early.

    Like water, rows fill up the lowest backlogs to one level. Parts of fewer than ``smallest`` rows
    are not made, and a task that has fewer is left whole.

    Args:
        rows: Rows of the task.
        cost: Of one row, in the unit of the backlogs.
        backlogs: Work that each process has already, at least one process.
        smallest: Rows of the smallest part.
    """
    order = sorted(range(len(backlogs)), key=backlogs.__getitem__)
    shares = [0] * len(backlogs)
    for used in range(min(len(order), max(1, rows // smallest)), 0, -1):
        chosen = order[:used]
        level = (sum(backlogs[i] for i in chosen) + rows * cost) / used
        parts = [int((level - backlogs[i]) / cost) for i in chosen]
        if used == 1 or parts[-1] >= smallest:
            parts[0] += rows - sum(parts)  # what rounding left
            break
    for i, part in zip(chosen, parts, strict=True):
        shares[i] = part
    return shares
