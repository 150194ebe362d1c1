"""What the next evaluations of each row need, computed ahead: plan lines and modulations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.engine.prediction import Predictor
from gmem_model.samplers import Plan
from gmem_model.samplers.plan import GUIDANCE, TIME

MAX_WINDOW = 32
"""Longest window, in evaluations: bounds the work that an admission adds to one evaluation."""


@dataclass(frozen=True, eq=False)
class RowSpec:
    """What one image depends on.

    Attributes:
        plan: Its evaluations.
        condition: Its snippet, float32 ``(d,)``, as stored in the bank, or class id, int64 ``()``.
        seed, index: Its noise stream, and its number within it.
    """

    plan: Plan
    condition: Tensor
    seed: int
    index: int

    @cached_property
    def needs(self) -> NDArray[np.int64]:
        """1 or 0 each: it adds noise, it is guided, it keeps its base over some evaluation."""
        p = self.plan
        return np.array([p.noise.any(), (p.guidance != 1).any(), not p.commit.all()], np.int64)


class Windows:
    """A window of evaluations for each slot: entries ``slot * length`` and following.

    Args:
        predictor: Keeps the modulation of every entry.
        slots: How many.
        length: Evaluations per slot.
        lines: Storage for the plan lines of every entry, ``(slots * length, W)``.
    """

    def __init__(self, predictor: Predictor, slots: int, length: int, lines: Tensor) -> None:
        self.length = length
        self.lines = lines
        self._predictor = predictor
        self._free = list(range(slots))

    def take(self, rows: int) -> list[int]:
        """Take so many free slots."""
        slots, self._free = self._free[:rows], self._free[rows:]
        return slots

    def give_back(self, slots: Sequence[int]) -> None:
        """Free slots."""
        self._free.extend(slots)

    def load(self, windows: Sequence[tuple[int, RowSpec, int]]) -> None:
        """Fill the windows of slots with what their rows need from an evaluation on."""
        lines = [spec.plan.lines[first : first + self.length] for _, spec, first in windows]
        spans = [slice(slot * self.length, slot * self.length + len(part))
                 for (slot, _, _), part in zip(windows, lines, strict=True)]  # fmt: skip
        width = self.lines.shape[1]
        for span, part in zip(spans, lines, strict=True):
            self.lines[span, : part.shape[1]] = part
            self.lines[span, part.shape[1] : width] = 0
        together = torch.cat([part[:, [TIME, GUIDANCE]] for part in lines])
        conditions = torch.stack([spec.condition for _, spec, _ in windows])
        counts = torch.tensor([len(part) for part in lines])
        self._predictor.prepare(
            spans, together[:, 0], together[:, 1], conditions.repeat_interleave(counts, 0)
        )
