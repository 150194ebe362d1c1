"""The numeric state of the running batch: one slot per row, and one evaluation of any of them.

Rows of different samplers, step counts, guidance, times and progress share each evaluation.
Nothing moves when rows come and go: a row keeps its slot, and an evaluation gathers the slots it
is given.

What a row needs from its plan and the networks' modulation of its (time, condition) pairs is known
before its first evaluation. Both are kept per slot as a *window* of the next few evaluations, so
that memory stays bounded for large networks and long plans; an exhausted window is replaced by
the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model import noise
from gmem_model.engine.prediction import Predictor
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import Plan, plan, samplers_of
from gmem_model.samplers.plan import COMMIT, FACTORS, GUIDANCE, NOISE, TIME, combine
from gmem_shared.model_config import Process

MAX_WINDOW = 32
"""Longest window, in evaluations: bounds the work that an admission adds to one evaluation."""

cached_plan = lru_cache(maxsize=64)(plan)
"""`samplers.plan`, which serves repeated requests from memory."""


@dataclass(frozen=True, slots=True, eq=False)
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


class Rows:
    """State x, base b and last predictions m' of up to ``capacity`` rows; see `samplers.Plan`.

    Args:
        guided: The networks, in eval mode, on the CPU.
        process: That of the plans of all rows.
        capacity: Number of slots.
        modulation_bytes: Memory for the modulation windows of all slots together.
    """

    def __init__(
        self, guided: GuidedNetwork, process: Process, capacity: int, *, modulation_bytes: int
    ) -> None:
        self._shape = guided.network.latent_shape
        networks = [network for network in (guided.network, guided.reference) if network]
        pair_bytes = 4 * sum(network.modulation_width for network in networks)
        self.window = min(MAX_WINDOW, max(1, modulation_bytes // (capacity * pair_bytes)))
        examples = [plan(name, 2, process) for name in samplers_of(process)]
        history = max(example.history for example in examples)
        dtype = examples[0].dtype
        self._x = torch.zeros((capacity, *self._shape), dtype=dtype)
        self._base = torch.zeros_like(self._x)
        self._history = torch.zeros((capacity, history, *self._shape), dtype=dtype)
        self._lines = torch.zeros((capacity, self.window, FACTORS + 2 + history), dtype=dtype)
        self._predictor = Predictor(guided, capacity, self.window)
        self._conditions = guided.network.no_condition(capacity)
        self._tables = [torch.empty(0)] * capacity
        self._seeds = np.zeros(capacity, dtype=np.uint64)
        self._indices = np.zeros(capacity, dtype=np.int64)
        self._evaluations = np.zeros(capacity, dtype=np.int64)
        self._free = list(range(capacity))

    def join(self, newcomers: Sequence[RowSpec]) -> list[int]:
        """Give each row a slot and its initial latent; return the slots."""
        slots = self._free[: len(newcomers)]
        for slot, spec in zip(slots, newcomers, strict=True):
            self._tables[slot] = spec.plan.lines
        self._conditions[slots] = torch.stack([spec.condition for spec in newcomers])
        self._seeds[slots] = np.array([spec.seed for spec in newcomers], dtype=np.uint64)
        self._indices[slots] = [spec.index for spec in newcomers]
        self._evaluations[slots] = 0
        initial = self._initial(np.array(slots), [spec.plan for spec in newcomers])
        self._x[slots], self._base[slots], self._history[slots] = initial, initial, 0.0
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
        """Return the states of these slots, ``(n, C, S, S)``."""
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
        lines, history = self._lines[index], self._history[index[0]]
        prediction = self._predictor.predict(self._x[index[0]], *index, lines[:, GUIDANCE])
        factors = lines[:, FACTORS:].mT[..., None, None, None]
        x = combine(factors, self._base[index[0]], prediction, history)
        self._add_noise(x, lines[:, NOISE].numpy(), places, noise.stage_of_evaluation(0) + k)
        committed = lines[:, COMMIT].numpy() != 0
        self._base[places[committed]] = x[committed]
        self._x[index[0]] = x
        if history.shape[1] > 1:
            self._history[index[0], 1:] = history[:, :-1]
        self._history[index[0], 0] = prediction
        self._evaluations[places] += 1
        return torch.isfinite(x).flatten(1).all(dim=1).numpy()

    def _initial(self, places: NDArray[np.int64], plans: Sequence[Plan]) -> Tensor:
        x = self._noise(places, np.full(len(places), noise.INITIAL_LATENT))
        scales = np.array([p.initial_scale for p in plans])
        x = torch.from_numpy(scales).to(x.dtype)[:, None, None, None] * x
        amplitudes = np.array([p.initial_noise for p in plans])
        stages = np.full(len(places), noise.BEFORE_FIRST_EVALUATION)
        self._add_noise(x, amplitudes, places, stages)
        return x

    def _add_noise(
        self,
        x: Tensor,
        amplitudes: NDArray[np.floating[Any]],
        places: NDArray[np.int64],
        stages: NDArray[np.int64],
    ) -> None:
        """Add fresh noise of these amplitudes, ``(n,)``, to the states in place."""
        noisy = amplitudes != 0
        if noisy.any():
            fresh = self._noise(places[noisy], stages[noisy])
            amplitude = torch.from_numpy(amplitudes[noisy]).to(x.dtype)
            x[noisy] += amplitude[:, None, None, None] * fresh

    def _noise(self, places: NDArray[np.int64], stages: NDArray[np.int64]) -> Tensor:
        values = noise.normal(self._seeds[places], self._indices[places], stages, self._shape)
        return torch.from_numpy(values).to(self._x.dtype)

    def _load_windows(self, places: NDArray[np.int64]) -> None:
        """Bring in the next window of plan lines and modulations of these rows."""
        pairs: list[tuple[int, int]] = []
        self._lines[places] = 0
        for place in places:
            first = self._evaluations[place]
            lines = self._tables[place][first : first + self.window]
            self._lines[place, : len(lines), : lines.shape[1]] = lines
            pairs.extend((place, column) for column in range(len(lines)))
        slots, columns = torch.tensor(pairs, dtype=torch.int64).unbind(1)
        lines = self._lines[slots, columns]
        self._predictor.prepare(
            slots, columns, lines[:, TIME], lines[:, GUIDANCE], self._conditions[slots]
        )
