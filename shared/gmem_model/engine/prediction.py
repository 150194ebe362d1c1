"""Guided predictions of the running rows, under modulation that was computed ahead."""

from __future__ import annotations

import torch
from torch import Tensor

from gmem_model.guidance import GuidedNetwork, guide
from gmem_model.network import MODULATION_ROWS, Network


class Modulations:
    """One network's modulation per slot and evaluation of the window.

    Args:
        network: In eval mode.
        capacity: Number of slots.
        window: Evaluations kept per slot.
    """

    def __init__(self, network: Network, capacity: int, window: int) -> None:
        self._network = network
        self._values = torch.empty((capacity, window, network.modulation_width))

    def compute(self, slots: Tensor, columns: Tensor, times: Tensor, conditions: Tensor) -> None:
        """Fill entries, int64 ``(n,)`` each, for these times and conditions, ``(n, …)``.

        Chunks of the size that networks compute anyway keep the working memory small.
        """
        entries = (slots, columns, times.float(), conditions)
        for slot, column, t, condition in zip(
            *(entry.split(MODULATION_ROWS) for entry in entries), strict=True
        ):
            self._values[slot, column] = self._network.modulation(t, condition)

    def of(self, slots: Tensor, columns: Tensor) -> Tensor:
        """Return entries ``(n, M)``."""
        return self._values[slots, columns]


class Predictor:
    """Evaluates a network, and where guidance is on its reference too.

    Args:
        guided: The networks, in eval mode.
        capacity: Number of slots.
        window: Evaluations per slot that are prepared at once.
    """

    def __init__(self, guided: GuidedNetwork, capacity: int, window: int) -> None:
        self._guided = guided
        self._size = capacity, window
        self._main = Modulations(guided.network, capacity, window)
        self._reference: Modulations | None = None  # takes memory once a row is guided

    def prepare(
        self, slots: Tensor, columns: Tensor, times: Tensor, weights: Tensor, conditions: Tensor
    ) -> None:
        """Compute what the evaluations ``(slots, columns)`` need; see `Modulations.compute`.

        ``weights`` are those of guidance.
        """
        self._main.compute(slots, columns, times, conditions)
        reference, guided = self._guided.reference, weights != 1
        if reference is None or not guided.any():
            return
        if self._reference is None:
            self._reference = Modulations(reference, *self._size)
        conditions = self._guided.reference_condition(conditions[guided])
        self._reference.compute(slots[guided], columns[guided], times[guided], conditions)

    def predict(self, x: Tensor, slots: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
        """Return predictions for these states ``(n, C, S, S)``, in their dtype."""
        modulation, latents = self._main.of(slots, columns), x.float()
        if self._reference is None or not (weights != 1).any():
            return self._guided.network.core(latents, modulation).to(x.dtype)
        rows = (weights != 1).nonzero(as_tuple=True)[0]
        against = self._reference.of(slots[rows], columns[rows])
        prediction, reference = self._guided.evaluate(latents, modulation, rows, against)
        prediction, reference = prediction.to(x.dtype), reference.to(x.dtype)
        weight = weights[rows][:, None, None, None]
        channels = self._guided.channels
        guided = guide(prediction[rows], reference, weight, channels=channels)
        return prediction.index_copy(0, rows, guided)
