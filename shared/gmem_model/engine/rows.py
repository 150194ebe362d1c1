"""The numeric state of the running batch: one slot per row, and one evaluation of any of them.

Rows of different samplers, step counts, times and progress share each evaluation. Nothing moves
when rows come and go: a row keeps its slot, and an evaluation gathers the slots it is given.

What a row needs from its plan and the network's modulation of its (time, condition) pairs is known
before its first evaluation. Both are kept per slot as a *window* of the next few evaluations, so
that memory stays bounded for large networks and long plans; an exhausted window is replaced by
the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model import noise
from gmem_model.network import MODULATION_ROWS, Network
from gmem_model.samplers import plan
from gmem_shared.model_config import Process

MAX_WINDOW = 32
"""Longest window, in evaluations: bounds the work that an admission adds to one evaluation."""


@dataclass(frozen=True, slots=True, eq=False)
class RowSpec:
    """What one image depends on.

    Attributes:
        table: Its plan, as `plan_table` gives it.
        condition: Its snippet, float32 ``(d,)``, as stored in the bank, or class id, int64 ``()``.
        seed, index: Its noise stream, and its number within it.
    """

    table: Tensor
    condition: Tensor
    seed: int
    index: int


@lru_cache(maxsize=64)
def plan_table(sampler: str, num_steps: int, process: Process) -> Tensor:
    """Return a plan as float64 ``(E, 7)``: time, the five coefficients, commit.

    Raises:
        UnknownSamplerError, OutOfRangeError: See `samplers.plan`.
    """
    p = plan(sampler, num_steps, process)
    columns = (p.times, p.current, p.base, p.velocity, p.previous, p.noise, p.commit)
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


class Rows:
    """State x, base b and last velocity p of up to ``capacity`` rows; see `samplers.Plan`.

    Args:
        network: In eval mode, on the CPU.
        capacity: Number of slots.
        modulation_bytes: Memory for the modulation windows of all slots together.
    """

    def __init__(self, network: Network, capacity: int, *, modulation_bytes: int) -> None:
        self._network = network
        self._shape = network.latent_shape
        pair_bytes = 4 * network.modulation_width
        self.window = min(MAX_WINDOW, max(1, modulation_bytes // (capacity * pair_bytes)))
        self._x = torch.zeros((capacity, *self._shape), dtype=torch.float64)
        self._base = torch.zeros_like(self._x)
        self._previous = torch.zeros_like(self._x)
        self._plan_window = torch.zeros((capacity, self.window, 7), dtype=torch.float64)
        self._modulation = torch.empty((capacity, self.window, network.modulation_width))
        self._conditions = network.no_condition(capacity)
        self._tables = [torch.empty(0)] * capacity
        self._seeds = np.zeros(capacity, dtype=np.uint64)
        self._indices = np.zeros(capacity, dtype=np.int64)
        self._evaluations = np.zeros(capacity, dtype=np.int64)
        self._free = list(range(capacity))

    def join(self, newcomers: Sequence[RowSpec]) -> list[int]:
        """Give each row a slot and its initial latent; return the slots."""
        slots = self._free[: len(newcomers)]
        seeds = np.array([spec.seed for spec in newcomers], dtype=np.uint64)
        indices = np.array([spec.index for spec in newcomers], dtype=np.int64)
        stages = np.full(len(newcomers), noise.INITIAL_LATENT)
        initial = torch.from_numpy(noise.normal(seeds, indices, stages, self._shape))
        for slot, spec in zip(slots, newcomers, strict=True):
            self._tables[slot] = spec.table
        self._conditions[slots] = torch.stack([spec.condition for spec in newcomers])
        self._seeds[slots], self._indices[slots], self._evaluations[slots] = seeds, indices, 0
        self._x[slots], self._base[slots], self._previous[slots] = initial, initial, 0.0
        del self._free[: len(newcomers)]
        return slots

    def leave(self, slots: Sequence[int]) -> None:
        """Free these slots."""
        for slot in slots:
            self._tables[slot] = torch.empty(0)
        self._free.extend(slots)

    def evaluations(self, slot: int) -> int:
        """Return how many evaluations the slot's row has behind it."""
        return int(self._evaluations[slot])

    def latents(self, slots: Sequence[int]) -> Tensor:
        """Return the states of these slots, float64 ``(n, C, S, S)``."""
        return self._x[list(slots)]

    def step(self, slots: Sequence[int]) -> NDArray[np.bool_]:
        """Take these rows through their next evaluation.

        Returns:
            bool ``(n,)``: whether each row's new state is finite.
        """
        places = np.array(slots)
        k = self._evaluations[places]
        column = k % self.window
        if (column == 0).any():
            self._load_windows(places[column == 0])
        index = (torch.from_numpy(places), torch.from_numpy(column))
        x = self._x[index[0]]
        v = self._network.core(x.float(), self._modulation[index]).double()
        x = self._combine(places, k, self._plan_window[index], x, v)
        self._x[index[0]] = x
        self._previous[index[0]] = v
        self._evaluations[places] += 1
        return torch.isfinite(x).flatten(1).all(dim=1).numpy()

    def _combine(
        self, places: NDArray[np.int64], k: NDArray[np.int64], lines: Tensor, x: Tensor, v: Tensor
    ) -> Tensor:
        """Apply each row's line of its plan, in the order of operations of `integrate`."""
        _, current, base, velocity, previous, amplitude, commit = lines.mT[..., None, None, None]
        x = current * x + base * self._base[places] + velocity * v
        x = x + previous * self._previous[places]
        noisy = amplitude.flatten().numpy() != 0
        if noisy.any():
            stages = noise.stage_of_evaluation(0) + k[noisy]
            seeds, indices = self._seeds[places[noisy]], self._indices[places[noisy]]
            fresh = torch.from_numpy(noise.normal(seeds, indices, stages, self._shape))
            x[noisy] += amplitude[noisy] * fresh
        committed = commit.flatten().numpy() != 0
        self._base[places[committed]] = x[committed]
        return x

    def _load_windows(self, places: NDArray[np.int64]) -> None:
        """Bring in the next window of plan lines and modulations of these rows."""
        pairs: list[tuple[int, int]] = []
        for place in places:
            first = self._evaluations[place]
            lines = self._tables[place][first : first + self.window]
            self._plan_window[place, : len(lines)] = lines
            pairs.extend((place, column) for column in range(len(lines)))
        for chunk in torch.tensor(pairs, dtype=torch.int64).split(MODULATION_ROWS):
            row, column = chunk.unbind(1)
            times = self._plan_window[row, column, 0].float()
            self._modulation[row, column] = self._network.modulation(times, self._conditions[row])
