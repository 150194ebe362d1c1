"""Guided predictions of the running rows, under modulation that was computed ahead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
        size = entries, network.modulation_width
        self._values = torch.empty(size, dtype=network.dtype, device=network.device)

    def compute(self, entries: Tensor, times: Tensor, conditions: Tensor) -> None:
        """Fill entries, int64 ``(n,)``, for these times and conditions, ``(n, …)``.

        Chunks of the size that networks compute anyway keep the working memory small.
        """
        device = self._network.device
        parts = (entries.to(device), times.float().to(device), conditions.to(device))
        for entry, t, condition in zip(*(p.split(MODULATION_ROWS) for p in parts), strict=True):
            self._values[entry] = self._network.modulation(t, condition)

    def of(self, entries: Tensor) -> Tensor:
        """Return the modulation of entries, ``(n, M)``."""
        return self._values.index_select(0, entries)


class Predictor:
    """Evaluates a network, and where guidance is on its reference too.

    Args:
        guided: The networks, in eval mode.
        entries: How many (time, condition) pairs are prepared at once.
    """

    def __init__(self, guided: GuidedNetwork, entries: int) -> None:
        self._guided = guided
        self._dtype = guided.network.dtype
        self._entries = entries
        self._main = Modulations(guided.network, entries)
        self._reference: Modulations | None = None  # takes memory once a row is guided

    def prepare(
        self, spans: Sequence[slice], times: Tensor, weights: Tensor, conditions: Tensor
    ) -> None:
        """Compute what the entries of these spans need; ``weights`` are those of guidance."""
        entries = torch.cat([torch.arange(span.start, span.stop) for span in spans])
        self._main.compute(entries, times, conditions)
        reference, guided = self._guided.reference, weights != 1
        if reference is None or not guided.any():
            return
        if self._reference is None:
            self._reference = Modulations(reference, self._entries)
        conditions = self._guided.reference_condition(conditions[guided])
        self._reference.compute(entries[guided], times[guided], conditions)

    def predict(self, x: Tensor, entries: Tensor) -> Tensor:
        """Return unguided predictions for these states ``(n, C, S, S)``, in their dtype."""
        core = self._guided.network.core
        return core(x.to(self._dtype), self._main.of(entries)).to(x.dtype)

    def predict_guided(self, x: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
        """Return predictions of rows of which some are guided; ``weights``: ``(n,)``.

        The reference is evaluated for the rows that need it; on a GPU, where an evaluation has to
        be the same work each time, for all.
        """
        rows = _rows_to_guide(weights)
        if self._reference is None or not len(rows):
            return self.predict(x, entries)
        latents = x.to(self._dtype)
        against = self._reference.of(entries[rows])
        prediction, reference = self._guided.evaluate(
            latents, self._main.of(entries), rows, against
        )
        prediction, reference = prediction.to(x.dtype), reference.to(x.dtype)
        weight = weights[rows][:, None, None, None]
        guided = guide(prediction[rows], reference, weight, channels=self._guided.channels)
        guided = torch.where(weight != 1, guided, prediction[rows])
        return prediction.index_copy(0, rows, guided)


def _rows_to_guide(weights: Tensor) -> Tensor:
    if weights.device.type == "cpu":
        return (weights != 1).nonzero(as_tuple=True)[0]
    return torch.arange(len(weights), device=weights.device)
