"""Evaluations of a fixed number of rows; on a GPU recorded once each, then replayed (CUDA graphs).

Where a network's kernels depend on the number of rows, always evaluating as many gives a row the
same bits in any company.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from gmem_shared.settings import EngineSettings

_WARM_UPS = 3


def buckets(max_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows that are recorded: powers of two, from 16 on every eighth."""
    small = [rows for rows in (1, 2, 4, 8) if rows < max_rows]
    return (*small, *range(16, max_rows, 8), max_rows)


class Graphs:
    """Recorded evaluations.

    Args:
        max_rows: Most rows.
        strict: Always evaluate as many rows, so that a row has the same bits in any company: GPU
            kernels are chosen by the number of rows.
        record: False only pads the rows, to try that on a CPU.
    """

    def __init__(self, max_rows: int, *, strict: bool = False, record: bool = True) -> None:
        self.sizes = (max_rows,) if strict else buckets(max_rows)
        self._record = record
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if record else None
        self._previous: torch.cuda.Event | None = None

    def bucket(self, rows: int) -> int:
        """Return the number of rows to evaluate, at least ``rows``."""
        return self.sizes[bisect_left(self.sizes, rows)]

    def run(self, key: Hashable, evaluate: Callable[[], None], changed: Sequence[Tensor]) -> None:
        """Evaluate, at most one evaluation ahead of the GPU.

        Args:
            key: Of the recording.
            evaluate: Fixed work on fixed tensors.
            changed: The tensors it changes, which recording must leave alone.
        """
        if not self._record:
            evaluate()
            return
        if key not in self._graphs:
            self._graphs[key] = self._recorded(evaluate, changed)
        self._graphs[key].replay()
        finished = torch.cuda.Event()
        finished.record()
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = finished

    def _recorded(
        self, evaluate: Callable[[], None], changed: Sequence[Tensor]
    ) -> torch.cuda.CUDAGraph:
        saved = [tensor.clone() for tensor in changed]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                evaluate()
                for tensor, before in zip(changed, saved, strict=True):
                    tensor.copy_(before)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            evaluate()
        return graph


def graphs_of(
    settings: EngineSettings, device: torch.device, max_rows: int, *, invariant: bool
) -> Graphs | None:
    """Return an engine's recorder; on a CPU none, or one that pads where strict rows need it."""
    if device.type == "cuda":
        return Graphs(max_rows, strict=bool(settings.strict))
    strict = settings.strict is None or settings.strict
    return None if invariant or not strict else Graphs(max_rows, strict=True, record=False)
