"""Guidance: leading a prediction away from a reference (arXiv 2207.12598, arXiv 2406.02507).

The reference is the same network without its condition, or a second, weaker network with the same
condition. Where guidance is on, the prediction m becomes reference + w (m - reference).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.network import Network
from gmem_shared.model_config import Guidance, NoCondition

Predict = Callable[[Tensor, float], Tensor]
"""A network under fixed conditions: state ``(N, C, S, S)`` and time to prediction."""


def guide(
    prediction: Tensor, reference: Tensor, weight: Tensor, *, channels: int | None = None
) -> Tensor:
    """Return ``reference + weight (prediction - reference)``.

    Args:
        prediction: Of the network, ``(N, C, S, S)``.
        reference: What is led away from, in the same shape.
        weight: Broadcasts against them.
        channels: Guides only so many channels; the others stay as predicted.
    """
    guided = reference + weight * (prediction - reference)
    if channels is None:
        return guided
    return torch.cat([guided[:, :channels], prediction[:, channels:]], dim=1)


def weights(
    guidance: Guidance, times: NDArray[np.float64], dtype: torch.dtype
) -> NDArray[np.float64]:
    """Return guidance's weight at these times.

    Times and the bounds of the interval, which belong to it, are compared in ``dtype``: the
    published programs keep time in the precision of the state.
    """
    t = torch.from_numpy(times).to(dtype)
    weight = torch.full(times.shape, guidance.scale, dtype=torch.float64)
    weight[t < guidance.low] = 1.0
    if guidance.high is not None:
        weight[t > guidance.high] = 1.0 if guidance.past_high == "prediction" else 0.0
    return weight.numpy()


@dataclass(frozen=True, slots=True)
class GuidedNetwork:
    """A network and what its guidance refers to.

    Attributes:
        network: Makes the prediction.
        reference: Makes the reference; may be ``network`` itself, which then has no condition.
            ``None`` for a network that cannot be guided.
        channels: How many channels are guided; see `guide`.
    """

    network: Network
    reference: Network | None = None
    channels: int | None = None

    @classmethod
    def of(
        cls, network: Network, guidance: Guidance | None, guide: Network | None = None
    ) -> GuidedNetwork:
        """Put a model's networks together; ``guide`` is the second one, if it has one."""
        if guidance is None:
            return cls(network)
        return cls(network, guide or network, guidance.channels)

    def to(self, device: torch.device | str) -> GuidedNetwork:
        """Move both networks to a device; return this."""
        for network in (self.network, self.reference):
            if network is not None:
                network.to(device)
        return self

    def reference_condition(self, condition: Tensor) -> Tensor:
        """Return the reference's condition for rows whose own is ``condition``.

        A second network shares it, unless it takes none.
        """
        reference = self.reference or self.network
        takes_none = isinstance(reference.architecture.condition, NoCondition)
        if reference is self.network or takes_none:
            return reference.no_condition(len(condition)).to(condition.device)
        return condition

    def evaluate(
        self, x: Tensor, modulation: Tensor, rows: Tensor, against: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return predictions for all latents, and for some of them the reference.

        One network that serves as its own reference is evaluated once, on all latents together.

        Args:
            x: Latents ``(N, C, S, S)``.
            modulation: The network's, ``(N, M)``.
            rows: Those with a reference, int64 ``(R,)``.
            against: The reference's modulation of these rows, ``(R, M')``.
        """
        if self.reference is None or self.reference is self.network:
            both = self.network.core(torch.cat([x, x[rows]]), torch.cat([modulation, against]))
            return both[: len(x)], both[len(x) :]
        return self.network.core(x, modulation), self.reference.core(x[rows], against)

    def predictors(self, condition: Tensor) -> tuple[Predict, Predict | None]:
        """Return prediction and reference under fixed conditions, as `integrate` takes them."""
        predict = _under(self.network, condition)
        if self.reference is None:
            return predict, None
        return predict, _under(self.reference, self.reference_condition(condition))

    def predictor(self, condition: Tensor, guidance: Guidance | None) -> Predict:
        """Return guided predictions under fixed conditions, for solvers that choose their times."""
        predict, reference = self.predictors(condition)
        if reference is None or guidance is None or guidance.scale == 1:
            return predict

        def guided(x: Tensor, t: float) -> Tensor:
            weight = torch.from_numpy(weights(guidance, np.array([t]), x.dtype)).to(x.device)
            if weight == 1:
                return predict(x, t)
            prediction, against = predict(x, t).to(x.dtype), reference(x, t).to(x.dtype)
            return guide(prediction, against, weight.to(x.dtype), channels=self.channels)

        return guided


def _under(network: Network, condition: Tensor) -> Predict:
    dtype = next(network.parameters()).dtype
    time_dtype = torch.promote_types(dtype, torch.float32)

    def predict(x: Tensor, t: float) -> Tensor:
        times = torch.full((len(x),), t, dtype=time_dtype, device=x.device)
        return network(x.to(dtype), times, condition)

    return predict
