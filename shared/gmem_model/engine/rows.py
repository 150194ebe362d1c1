"""The numeric state of the running batch, and one evaluation of all of it.

Rows of different samplers, step counts, guidance, times and progress share each evaluation. Their
states lie side by side in *places* 0 … n-1, so that an evaluation works on slices of arrays that
are allocated once; newcomers, else the last rows, take the places of those that left.

What a row needs from its plan and the networks' modulation of its (time, condition) pairs is known
before its first evaluation. Both are kept per row as a *window* of the next few evaluations, so
that memory stays bounded for large networks and long plans; an exhausted window is replaced by
the next. Windows are large and do not move with their rows: they lie in *slots*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gmem_model import noise
from gmem_model.engine.graphs import Graphs
from gmem_model.engine.prediction import Predictor
from gmem_model.engine.windows import MAX_WINDOW, RowSpec, Windows
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import plan, samplers_of
from gmem_model.samplers.plan import COMMIT, FACTORS, GUIDANCE, NOISE, combine
from gmem_shared.model_config import Process

cached_plan = lru_cache(maxsize=64)(plan)
"""`samplers.plan`, which serves repeated requests from memory."""

_X, _BASE, _HISTORY = range(3)
_SEED, _INDEX, _FIRST = range(3)


@dataclass(eq=False, slots=True)
class _Seat:
    """A row in the batch: who it is, where its window lies, and its first evaluation."""

    spec: RowSpec
    slot: int
    first: int
    place: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """What some row of the batch needs of an evaluation; the others come out right all the same."""

    noisy: bool
    guided: bool
    keeps_base: bool


class Rows:
    """State x, base b and last predictions m' of up to ``capacity`` rows; see `samplers.Plan`.

    Args:
        guided: The networks, in eval mode, on one device.
        process: That of the plans of all rows.
        capacity: Most rows.
        modulation_bytes: Memory for the modulation windows of all rows together.
        graphs: On a GPU, records evaluations and replays them.
    """

    def __init__(
        self,
        guided: GuidedNetwork,
        process: Process,
        capacity: int,
        *,
        modulation_bytes: int,
        graphs: Graphs | None = None,
    ) -> None:
        examples = [plan(name, 2, process) for name in samplers_of(process)]
        history = max(example.history for example in examples)
        self._dtype, self._device = examples[0].dtype, guided.network.device
        self._shape = guided.network.latent_shape
        self._state = self._zeros(capacity, 2 + history, *self._shape)
        self._origins = self._zeros(capacity, 3, dtype=torch.int64)
        self._entries = self._zeros(capacity, dtype=torch.int64)
        self._clock = self._zeros(dtype=torch.int64)
        networks = [network for network in (guided.network, guided.reference) if network]
        pair_bytes = sum(n.modulation_width * n.dtype.itemsize for n in networks)
        self.window = min(MAX_WINDOW, max(1, modulation_bytes // (capacity * pair_bytes)))
        self._predictor = Predictor(guided, capacity * self.window)
        lines = self._zeros(capacity * self.window, FACTORS + 2 + history)
        self._windows = Windows(self._predictor, capacity, self.window, lines)
        self._graphs = graphs
        self._seats: dict[int, _Seat] = {}
        self._places: list[_Seat | None] = []  # None: its row has left
        self._due: defaultdict[int, list[_Seat]] = defaultdict(list)
        self._needs = np.zeros(3, np.int64)
        self._evaluation = 0

    def _zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self._dtype, device=self._device)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._seats)

    def join(self, newcomers: Sequence[RowSpec]) -> list[int]:
        """Give each row its initial latent; return the slots, by which rows are known here."""
        slots = self._windows.take(len(newcomers))
        holes = [place for place, seat in enumerate(self._places) if seat is None]
        holes = holes[: len(newcomers)]
        appended = range(len(self._places), len(self._places) + len(newcomers) - len(holes))
        self._places += [None] * len(appended)
        places = [*holes, *appended]
        for spec, slot, place in zip(newcomers, slots, places, strict=True):
            seat = _Seat(spec, slot, self._evaluation, place)
            self._places[place] = self._seats[slot] = seat
            self._due[self._evaluation].append(seat)
            self._needs += spec.needs
        self._state[places] = self._initial(newcomers)
        self._origins[places] = torch.tensor(
            [(_signed(spec.seed), spec.index, self._evaluation) for spec in newcomers],
            device=self._device,
        )
        return slots

    def leave(self, slots: Sequence[int]) -> None:
        """Free these slots and the places of their rows."""
        for slot in slots:
            seat = self._seats.pop(slot)
            self._places[seat.place] = None
            self._needs -= seat.spec.needs
        self._windows.give_back(slots)

    def evaluations(self, slot: int) -> int:
        """Return how many evaluations a row has behind it."""
        return self._evaluation - self._seats[slot].first

    def latents(self, slots: Sequence[int]) -> Tensor:
        """Return a copy of the states of these rows, ``(n, C, S, S)``."""
        return self._state[[self._seats[slot].place for slot in slots], _X]

    def step(self) -> None:
        """Take every row through its next evaluation."""
        self._load_windows()
        self._close_ranks()
        kind = _Kind(*(self._needs > 0).tolist())
        rows = len(self._places)
        if self._graphs is None:
            self._advance(rows, kind)
        else:
            rows = self._graphs.bucket(rows)
            self._graphs.run((rows, kind), lambda: self._advance(rows, kind), self._buffers())
        self._evaluation += 1

    def _buffers(self) -> list[Tensor]:
        return [self._state, self._entries, self._clock]

    def _advance(self, n: int, kind: _Kind) -> None:
        """Evaluate the rows in the first places; every shape depends on the arguments only."""
        entries, lines = self._entries[:n], self._windows.lines.index_select(0, self._entries[:n])
        x, base, history = self._state[:n, _X], self._state[:n, _BASE], self._state[:n, _HISTORY:]
        if kind.guided:
            prediction = self._predictor.predict_guided(x, entries, lines[:, GUIDANCE])
        else:
            prediction = self._predictor.predict(x, entries)
        factors = lines[:, FACTORS:].mT[..., None, None, None]
        new = combine(factors, base, prediction, history)
        if kind.noisy:
            self._add_noise(new, lines[:, NOISE], n)
        if kind.keeps_base:
            base.copy_(torch.where(lines[:, COMMIT, None, None, None] != 0, new, base))
        else:
            base.copy_(new)
        x.copy_(new)
        if history.shape[1] > 1:
            history[:, 1:] = history[:, :-1].clone()
        if history.shape[1]:
            history[:, 0] = prediction
        entries.add_(1).clamp_(max=len(self._windows.lines) - 1)  # where no row is, it has to end
        self._clock += 1

    def _add_noise(self, x: Tensor, amplitudes: Tensor, n: int) -> None:
        """Add fresh noise of these amplitudes, ``(n,)``, to the states in place."""
        seeds, indices, firsts = self._origins[:n].unbind(1)
        stages = noise.stage_of_evaluation(0) + self._clock - firsts
        if x.device.type == "cpu":  # computed where it is needed only
            noisy = amplitudes.nonzero(as_tuple=True)[0]
            fresh = noise.normal_tensor(seeds[noisy], indices[noisy], stages[noisy], self._shape)
            x[noisy] += amplitudes[noisy, None, None, None] * fresh.to(x.dtype)
        else:
            fresh = noise.normal_tensor(seeds, indices, stages, self._shape)
            x += amplitudes[:, None, None, None] * fresh.to(x.dtype)

    def _initial(self, specs: Sequence[RowSpec]) -> Tensor:
        """Return state, base and history of rows at their start, ``(n, 2 + H, C, S, S)``."""
        seeds = torch.tensor([_signed(spec.seed) for spec in specs], device=self._device)
        indices = torch.tensor([spec.index for spec in specs], device=self._device)

        def normal(stage: int) -> Tensor:
            stages = torch.full_like(indices, stage)
            fresh = noise.normal_tensor(seeds, indices, stages, self._shape)
            return fresh.to(self._dtype)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=self._dtype, device=self._device)[:, None, None, None]

        x = column([spec.plan.initial_scale for spec in specs]) * normal(noise.INITIAL_LATENT)
        if any(spec.plan.initial_noise for spec in specs):
            amplitudes = column([spec.plan.initial_noise for spec in specs])
            fresh = amplitudes * normal(noise.BEFORE_FIRST_EVALUATION)
            x = torch.where(amplitudes != 0, x + fresh, x)
        state = self._zeros(len(specs), *self._state.shape[1:])
        state[:, _X] = state[:, _BASE] = x
        return state

    def _load_windows(self) -> None:
        """Bring in the next window of rows that begin one now."""
        due = self._due.pop(self._evaluation, ())
        seats = [seat for seat in due if self._seats.get(seat.slot) is seat]
        if not seats:
            return
        begins = [self._evaluation - seat.first for seat in seats]
        self._windows.load(
            [(seat.slot, seat.spec, k) for seat, k in zip(seats, begins, strict=True)]
        )
        entries = [seat.slot * self.window for seat in seats]
        self._entries[[seat.place for seat in seats]] = torch.tensor(entries, device=self._device)
        for seat, k in zip(seats, begins, strict=True):
            if k + self.window < len(seat.spec.plan):
                self._due[self._evaluation + self.window].append(seat)

    def _close_ranks(self) -> None:
        """Move the last rows into places that are free."""
        if len(self._places) == len(self._seats):
            return
        n = len(self._seats)
        free = [place for place in range(n) if self._places[place] is None]
        movers = [seat for seat in self._places[n:] if seat is not None]
        del self._places[n:]
        if not movers:
            return
        sources = [seat.place for seat in movers]
        for tensor in (self._state, self._origins, self._entries):
            tensor[free] = tensor[sources]
        for place, seat in zip(free, movers, strict=True):
            self._places[place], seat.place = seat, place


def _signed(seed: int) -> int:
    """Return the signed 64-bit integer with the bits of an unsigned one."""
    return seed - 2**64 if seed >= 2**63 else seed
