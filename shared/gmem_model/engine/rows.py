"""The numeric state of the running batch, and one evaluation of all of it.

Rows of different samplers, step counts, guidance, times and progress share each evaluation. Their
states lie side by side in *places* 0 … n-1, so that an evaluation works on slices of arrays that
are allocated once; newcomers, else the last rows, take the places of those that left.

What a row needs of its plan for the next few evaluations, its *window*, lies in a *slot* of its
own, with the networks' modulation for it where that is computed ahead. Windows are large and do
not move with their rows; as they are short, memory stays bounded for large networks and long
plans. An exhausted window is replaced by the next.
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
from gmem_model.engine.arrays import Array, arrays_on
from gmem_model.engine.graphs import Graphs
from gmem_model.engine.initial import InitialNoise, Upcoming, signed
from gmem_model.engine.prediction import Predictor
from gmem_model.engine.windows import MAX_WINDOW, RowSpec, Windows
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import plan, samplers_of
from gmem_model.samplers.plan import COMMIT, FACTORS, GUIDANCE, NOISE, TIME, combine
from gmem_shared.model_config import Process

cached_plan = lru_cache(maxsize=64)(plan)
"""`samplers.plan`, which serves repeated requests from memory."""


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
        networks: In eval mode, on one device.
        process: That of the plans of all rows.
        capacity: Most rows.
        modulation_bytes: Memory for the modulation windows of all rows together.
        graphs: On a GPU, records evaluations and replays them.
    """

    def __init__(
        self,
        networks: GuidedNetwork,
        process: Process,
        capacity: int,
        *,
        modulation_bytes: int,
        graphs: Graphs | None = None,
    ) -> None:
        self.window = _window(networks, capacity, modulation_bytes)
        self._graphs = graphs
        self._shape, arrays = networks.network.latent_shape, arrays_on(networks.network.device)
        self._arrays = arrays
        self._predictor = Predictor(networks, capacity * self.window, arrays)
        self._initial = InitialNoise(self._shape, arrays)
        examples = [plan(name, 2, process) for name in samplers_of(process)]
        history, dtype = max(example.history for example in examples), examples[0].dtype
        self._dtype = dtype
        self._x = arrays.zeros(capacity, *self._shape, dtype=dtype)
        self._base = arrays.zeros(capacity, *self._shape, dtype=dtype)
        self._history = arrays.zeros(capacity, history, *self._shape, dtype=dtype)
        self._conditions = arrays.of(networks.network.no_condition(capacity))
        self._origins = arrays.zeros(capacity, 3, dtype=torch.int64)
        self._entries = arrays.zeros(capacity, dtype=torch.int64)
        self._by_place = (
            self._x, self._base, self._history, self._conditions, self._origins, self._entries,
        )  # fmt: skip
        self._clock = arrays.zeros(1, dtype=torch.int64)
        width = FACTORS + 2 + history
        lines = arrays.zeros(capacity * self.window, width, dtype=dtype)
        self._windows = Windows(capacity, self.window, lines, arrays)
        self._seats: dict[int, _Seat] = {}
        self._places: list[_Seat | None] = []  # None: its row has left
        self._due: defaultdict[int, list[_Seat]] = defaultdict(list)
        self._unprepared: dict[int, int] = {}  # slot: the evaluation its window begins with
        self._needs = np.zeros(3, np.int64)
        self._evaluation = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._seats)

    def join(self, newcomers: Sequence[RowSpec], upcoming: Upcoming = lambda _: ()) -> list[int]:
        """Give each row a place; return the slots, by which rows are known here.

        Args:
            newcomers: At most as many as there are free places.
            upcoming: Whose noise may be computed with that of the newcomers.
        """
        begun = self._begun(newcomers, upcoming)  # first: it may fail, and then nobody has joined
        slots, places = self._windows.take(len(newcomers)), self._take_places(len(newcomers))
        for spec, slot, place in zip(newcomers, slots, places, strict=True):
            seat = _Seat(spec, slot, self._evaluation, place)
            self._places[place] = self._seats[slot] = seat
            self._due[self._evaluation].append(seat)
            self._needs += spec.plan.needs
        put, (x, conditions, origins) = self._arrays.put, begun
        put(self._x, places, x)
        put(self._base, places, x)
        self._arrays.clear(self._history, places)
        put(self._conditions, places, conditions)
        put(self._origins, places, origins)
        return slots

    def _take_places(self, rows: int) -> list[int]:
        """Return places for so many rows: free ones first, then new ones at the end."""
        holes = [place for place, seat in enumerate(self._places) if seat is None][:rows]
        end = len(self._places) + rows - len(holes)
        places = [*holes, *range(len(self._places), end)]
        self._places += [None] * (rows - len(holes))
        return places

    def leave(self, slots: Sequence[int]) -> None:
        """Free these slots and the places of their rows."""
        for slot in slots:
            seat = self._seats.pop(slot)
            self._places[seat.place] = None
            self._needs -= seat.spec.plan.needs
            self._unprepared.pop(slot, None)
        self._windows.give_back(slots)

    def evaluations(self, slot: int) -> int:
        """Return how many evaluations a row has behind it."""
        return self._evaluation - self._seats[slot].first

    def latents(self, slots: Sequence[int]) -> Tensor:
        """Return a copy of the states of these rows, ``(n, C, S, S)``."""
        return self._arrays.tensor(self._x[[self._seats[slot].place for slot in slots]])

    def step(self) -> None:
        """Take every row through its next evaluation."""
        self._close_ranks()
        self._load_windows()
        rows, kind = len(self._places), _Kind(*(self._needs > 0).tolist())
        fused = not (kind.guided or self._graphs) and self._predictor.fuses(rows)
        if not fused:
            self._prepare()
        if self._graphs is None:
            self._advance(rows, kind, fused=fused)
        else:
            rows = self._graphs.bucket(rows)
            changed = [self._x, self._base, self._history, self._entries, self._clock]
            self._graphs.run((rows, kind), lambda: self._advance(rows, kind, fused=False), changed)
        self._evaluation += 1

    def _advance(self, n: int, kind: _Kind, *, fused: bool) -> None:
        """Evaluate the rows in the first places; every shape depends on the arguments only."""
        x, base, history = self._x[:n], self._base[:n], self._history[:n]
        entries = self._entries[:n]
        lines = self._windows.lines[entries]
        prediction = self._predict(x, entries, lines, kind, fused=fused)
        new = combine(lines[:, FACTORS:].T[..., None, None, None], base, prediction, history)
        if kind.noisy:
            self._add_noise(new, lines[:, NOISE], n)
        x[...] = new
        if kind.keeps_base:
            new = self._arrays.where(lines[:, COMMIT, None, None, None] != 0, new, base)
        base[...] = new
        for h in range(history.shape[1] - 1, 0, -1):
            history[:, h] = history[:, h - 1]
        if history.shape[1]:
            history[:, 0] = prediction
        entries += 1
        entries %= len(self._windows.lines)  # an entry may lie in no window where no row is
        self._clock += 1

    def _predict(
        self, x: Array, entries: Array, lines: Array, kind: _Kind, *, fused: bool
    ) -> Array:
        if fused:
            return self._predictor.fused(x, lines[:, TIME], self._conditions[: len(x)])
        if kind.guided:
            return self._predictor.guided(x, entries, lines[:, GUIDANCE])
        return self._predictor.prepared(x, entries)

    def _add_noise(self, x: Array, amplitudes: Array, n: int) -> None:
        """Add fresh noise of these amplitudes, ``(n,)``, to the states in place."""
        seeds, indices, firsts = self._origins[:n].T
        stages = self._clock - firsts + noise.stage_of_evaluation(0)
        noisy: Array = slice(None)
        if isinstance(x, np.ndarray):  # on a GPU, where work must not vary, for all
            noisy = np.flatnonzero(amplitudes)
        fresh = self._arrays.normal(seeds[noisy], indices[noisy], stages[noisy], self._shape)
        x[noisy] += amplitudes[noisy][:, None, None, None] * self._like_x(fresh)

    def _like_x(self, values: Array) -> Array:
        return self._arrays.cast(values, self._dtype)

    def _begun(self, specs: Sequence[RowSpec], upcoming: Upcoming) -> tuple[Array, Array, Array]:
        """Return states, conditions and origins of rows at their start."""
        keys = [(signed(spec.seed), spec.index, self._evaluation) for spec in specs]
        origins = self._arrays.integers(keys)
        initial = self._initial.take([(spec.seed, spec.index) for spec in specs], upcoming)
        x = self._scaled(self._like_x(self._arrays.stack(initial)), specs, origins)
        conditions = self._arrays.of_each([spec.condition for spec in specs])
        return x, conditions, origins

    def _scaled(self, x: Array, specs: Sequence[RowSpec], origins: Array) -> Array:
        """Return initial noise as the plans want it."""
        if any(spec.plan.initial_scale != 1 for spec in specs):
            x = self._column([spec.plan.initial_scale for spec in specs]) * x
        if any(spec.plan.initial_noise for spec in specs):
            amplitudes = self._column([spec.plan.initial_noise for spec in specs])
            seeds, indices, _ = origins.T
            stages = 0 * seeds + noise.BEFORE_FIRST_EVALUATION
            fresh = self._arrays.normal(seeds, indices, stages, self._shape)
            added = x + amplitudes * self._like_x(fresh)
            x = self._arrays.where(amplitudes != 0, added, x)
        return x

    def _column(self, values: list[float]) -> Array:
        column = torch.tensor(values, dtype=self._dtype)
        return self._arrays.of(column)[:, None, None, None]

    def _load_windows(self) -> None:
        """Bring in the next window of rows that begin one now."""
        due = self._due.pop(self._evaluation, ())
        seats = [seat for seat in due if self._seats.get(seat.slot) is seat]
        if not seats:
            return
        for seat in seats:
            begin = self._evaluation - seat.first
            self._windows.load(seat.slot, seat.spec.plan, begin)
            self._unprepared[seat.slot] = begin
            if begin + self.window < len(seat.spec.plan):
                self._due[self._evaluation + self.window].append(seat)
        entries = self._arrays.integers([seat.slot * self.window for seat in seats])
        self._arrays.put(self._entries, [seat.place for seat in seats], entries)

    def _prepare(self) -> None:
        """Have modulations computed for what is left of windows that have none."""
        spans, conditions = [], []
        for slot, begin in self._unprepared.items():
            seat = self._seats[slot]
            done = self._evaluation - seat.first - begin
            end = min(len(seat.spec.plan) - begin, self.window)
            spans.append(slot * self.window + torch.arange(done, max(done, end)))
            conditions += [seat.spec.condition] * len(spans[-1])
        self._unprepared.clear()
        if spans:
            entries = self._arrays.tensor(self._arrays.of(torch.cat(spans)))
            lines = self._arrays.tensor(self._windows.lines)[entries]
            condition = self._arrays.tensor(self._arrays.of_each(conditions))
            self._predictor.prepare(entries, lines[:, TIME], lines[:, GUIDANCE], condition)

    def _close_ranks(self) -> None:
        """Move the last rows into places that are free."""
        n = len(self._seats)
        if len(self._places) == n:
            return
        free = [place for place in range(n) if self._places[place] is None]
        movers = [seat for seat in self._places[n:] if seat is not None]
        del self._places[n:]
        if not movers:
            return
        sources = [seat.place for seat in movers]
        for array in self._by_place:
            array[free] = array[sources]
        for place, seat in zip(free, movers, strict=True):
            self._places[place], seat.place = seat, place


def _window(networks: GuidedNetwork, capacity: int, modulation_bytes: int) -> int:
    """Return how many evaluations ahead the memory allows to prepare."""
    each = [network for network in (networks.network, networks.reference) if network]
    pair_bytes = sum(network.modulation_width * network.dtype.itemsize for network in each)
    return min(MAX_WINDOW, max(1, modulation_bytes // (capacity * pair_bytes)))
