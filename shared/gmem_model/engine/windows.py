"""The next evaluations of each row: the lines of its plan, in a table that all rows share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmem_model.engine.arrays import Array, Arrays
from gmem_model.samplers import Plan

MAX_WINDOW = 32
"""Longest window, in evaluations: bounds the work that an admission adds to one evaluation."""


ConditionArray = NDArray[np.float32] | NDArray[np.int64]
"""A snippet, float32 ``(d,)``, as stored in the bank, or a class id, int64 ``()``."""


@dataclass(frozen=True, eq=False, slots=True)
class RowSpec:
    """What one image depends on.

    Attributes:
        plan: Its evaluations.
        condition: Its snippet or class id.
        seed, index: Its noise stream, and its number within it.
    """

    plan: Plan
    condition: ConditionArray
    seed: int
    index: int


class Windows:
    """A window of evaluations for each slot: entries ``slot * length`` and following.

    Args:
        slots: How many.
        length: Evaluations per slot.
        lines: Storage for the plan lines of every entry, ``(slots * length, W)``.
        arrays: Of which these are.
    """

    def __init__(self, slots: int, length: int, lines: Array, arrays: Arrays) -> None:
        self.length = length
        self.lines = lines
        self._arrays = arrays
        self._free = list(range(slots))

    def take(self, rows: int) -> list[int]:
        """Take so many free slots."""
        slots, self._free = self._free[:rows], self._free[rows:]
        return slots

    def give_back(self, slots: Sequence[int]) -> None:
        """Free slots."""
        self._free.extend(slots)

    def load(self, slot: int, plan: Plan, begin: int) -> None:
        """Fill the window of a slot with a plan's lines from an evaluation on."""
        lines = self._arrays.of(plan.lines)[begin : begin + self.length]
        entries = self.lines[slot * self.length : slot * self.length + len(lines)]
        width = lines.shape[1]
        entries[:, :width] = lines
        if width < entries.shape[1]:  # a sampler that remembers fewer predictions than others
            entries[:, width:] = 0
