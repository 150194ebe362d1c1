"""Guided predictions of the running rows.

The networks' modulation of a row's (time, condition) pairs is known before its first evaluation.
It is computed ahead for a window of evaluations, which is much cheaper than with each of them for
a few rows; for many it is the same work, and some networks then do both at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmem_model.engine.arrays import Array, Arrays
from gmem_model.engine.onnx_network import OnnxNetwork
from gmem_model.guidance import GuidedNetwork, guide
from gmem_model.network import MODULATION_ROWS, Network


class Modulations:
    """One network's modulation per entry.

    Args:
        network: In eval mode.
        entries: How many.
    """

    def __init__(self, network: Network, entries: int) -> None:
        self._network = network
        self._device = network.device
        size = entries, network.modulation_width
        self._values = torch.empty(size, dtype=network.dtype, device=self._device)

    def compute(self, entries: Tensor, times: Tensor, conditions: Tensor) -> None:
        """Fill entries, int64 ``(n,)``, for these times and conditions, ``(n, …)``.

        Chunks of the size that networks compute anyway keep the working memory small.
        """
        parts = entries.to(self._device), times.float().to(self._device), conditions
        for entry, t, condition in zip(*(p.split(MODULATION_ROWS) for p in parts), strict=True):
            self._values[entry] = self._network.modulation(t, condition)

    def of(self, entries: Tensor) -> Tensor:
        """Return the modulation of entries, ``(n, M)``."""
        return self._values.index_select(0, entries)

    def arrays_of(self, entries: Array) -> Array:
        """Return the same on a CPU, as an array."""
        return self._values.numpy().take(entries, axis=0)


class Predictor:
    """Evaluates a network, and where guidance is on its reference too.

    States are ``(n, C, S, S)``. Predictions have the network's dtype, guided ones the states';
    what they are combined with is of the states', so nothing is lost. A prediction may lie where
    the next one will.

    Args:
        networks: In eval mode.
        entries: How many (time, condition) pairs are prepared at once.
        arrays: Of which states, entries and predictions are.
    """

    def __init__(self, networks: GuidedNetwork, entries: int, arrays: Arrays) -> None:
        self._networks = networks
        self._arrays = arrays
        self._onnx = networks.network if isinstance(networks.network, OnnxNetwork) else None
        self._dtype = networks.network.dtype
        self._entries = entries
        self._main = Modulations(networks.network, entries)
        self._reference: Modulations | None = None  # takes memory once a row is guided

    def fuses(self, rows: int) -> bool:
        """Whether so many unguided rows are better evaluated without preparation."""
        return self._onnx is not None and rows >= self._onnx.fused_from

    def fused(self, x: Array, times: Array, conditions: Array) -> Array:
        """Return unguided predictions, for which nothing was prepared."""
        assert self._onnx is not None  # noqa: S101 (it fuses)
        return self._onnx.forward_arrays(x, times, conditions)

    def prepare(self, entries: Tensor, times: Tensor, weights: Tensor, conditions: Tensor) -> None:
        """Compute what these entries need, all ``(n, …)``; ``weights`` are those of guidance."""
        self._main.compute(entries, times, conditions)
        reference, guided = self._networks.reference, weights != 1
        if reference is None or not guided.any():
            return
        if self._reference is None:
            self._reference = Modulations(reference, self._entries)
        conditions = self._networks.reference_condition(conditions[guided])
        self._reference.compute(entries[guided], times[guided], conditions)

    def prepared(self, x: Array, entries: Array) -> Array:
        """Return unguided predictions."""
        if self._onnx is not None:
            return self._onnx.core_arrays(x, self._main.arrays_of(entries))
        x, entries = self._arrays.tensor(x), self._arrays.tensor(entries)
        modulation = self._main.of(entries)
        return self._arrays.of(self._networks.network.core(x.to(self._dtype), modulation))

    def guided(self, x: Array, entries: Array, weights: Array) -> Array:
        """Return predictions of rows of which some are guided, by ``weights``, ``(n,)``.

        The reference is evaluated for the rows that need it; on a GPU, where an evaluation has to
        be the same work each time, for all.
        """
        tensor = self._arrays.tensor
        rows = _rows_to_guide(tensor(weights))
        if self._reference is None or not len(rows):
            return self.prepared(x, entries)
        return self._arrays.of(self._led(tensor(x), tensor(entries), tensor(weights), rows))

    def _led(self, x: Tensor, entries: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """Return predictions, those of ``rows`` led away from the reference."""
        assert self._reference is not None  # noqa: S101 (there are rows to guide)
        prediction, reference = self._networks.evaluate(
            x.to(self._dtype), self._main.of(entries), rows, self._reference.of(entries[rows])
        )
        prediction, reference = prediction.to(x.dtype), reference.to(x.dtype)
        weight = weights[rows][:, None, None, None]
        led = guide(prediction[rows], reference, weight, channels=self._networks.channels)
        return prediction.index_copy(0, rows, torch.where(weight != 1, led, prediction[rows]))


def _rows_to_guide(weights: Tensor) -> Tensor:
    if weights.device.type == "cpu":
        return (weights != 1).nonzero(as_tuple=True)[0]
    return torch.arange(len(weights), device=weights.device)
