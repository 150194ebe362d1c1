"""A sampler as a table, and its application to a batch that moves in step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.guidance import Predict, guide, weights
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Guidance

Column = NDArray[np.float64]
BEFORE_FIRST = -1
"""In the place of an evaluation's number: the noise added before the first one."""


@dataclass(frozen=True)
class Plan:
    """The network evaluations of one image.

    A row carries its state x, its base b and the last H predictions m' (at first 0), all of
    ``dtype``. It starts from normal noise z, ``x = b = initial_scale z + initial_noise eps``.
    Evaluation k gives m = network(x, times[k]); then, with fresh normal noise eps::

        x <- base[k] b + prediction[k] m + sum_h previous[k, h] m'[h] + noise[k] eps
        m' <- m, m'[0], m'[1] …
        b <- x   if commit[k]

    Attributes:
        times: ``(E,)``.
        gates: ``(E,)``, the times by which guidance decides whether it is on; see `guided`.
        base, prediction, noise: ``(E,)``.
        previous: ``(E, H)``; predictions of evaluations k - 1, k - 2 …
        commit: bool ``(E,)``.
        guidance: ``(E,)``, weight of the prediction against guidance's reference: 1 needs the
            prediction alone.
    """

    times: Column
    gates: Column
    base: Column
    prediction: Column
    previous: Column
    noise: Column
    commit: NDArray[np.bool_]
    guidance: Column
    initial_scale: float = 1.0
    initial_noise: float = 0.0
    dtype: torch.dtype = torch.float64

    @classmethod
    def tabulate(
        cls,
        times: Column,
        *,
        prediction: Column,
        gates: Column | None = None,
        base: Column | float = 1.0,
        previous: Column | None = None,
        noise: Column | float = 0.0,
        commit: NDArray[np.bool_] | bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> Plan:
        """Return an unguided plan of these columns; scalars hold for every line."""

        def column(value: Column | float) -> Column:
            return np.array(np.broadcast_to(value, times.shape), dtype=np.float64)

        return cls(
            times=times,
            gates=times if gates is None else gates,
            base=column(base),
            prediction=prediction,
            previous=np.zeros((len(times), 0)) if previous is None else previous,
            noise=column(noise),
            commit=np.array(np.broadcast_to(commit, times.shape)),
            guidance=np.ones_like(times),
            dtype=dtype,
        )

    def __len__(self) -> int:
        """Return E, the number of lines."""
        return len(self.times)

    @property
    def history(self) -> int:
        """Return H, the number of earlier predictions a row remembers."""
        return self.previous.shape[1]

    @cached_property
    def needs(self) -> NDArray[np.int64]:
        """1 or 0 each: the plan adds noise, is guided, keeps a base over some evaluation."""
        needs = self.noise.any(), (self.guidance != 1).any(), not self.commit.all()
        return np.array(needs, np.int64)

    @cached_property
    def network_evaluations(self) -> int:
        """Return how often networks are evaluated, those for guidance included."""
        return len(self) + int(np.count_nonzero(self.guidance != 1))

    def then(self, last: Plan) -> Plan:
        """Return this plan with the lines of another appended."""
        history = max(self.history, last.history)
        joined: dict[str, Any] = {
            field.name: np.concatenate([getattr(self, field.name), getattr(last, field.name)])
            for field in fields(self)
            if field.name != "previous" and isinstance(getattr(self, field.name), np.ndarray)
        }
        padded = [np.pad(p.previous, ((0, 0), (0, history - p.history))) for p in (self, last)]
        return replace(self, **joined, previous=np.concatenate(padded))

    def padded(self, evaluations: int) -> Plan:
        """Return the plan with lines appended that change nothing, up to so many evaluations."""
        idle = np.full(evaluations - len(self), self.times[-1])
        return self.then(Plan.tabulate(idle, prediction=np.zeros_like(idle), dtype=self.dtype))

    def guided(self, guidance: Guidance) -> Plan:
        """Return the plan with the weights that guidance has at its ``gates``."""
        return replace(self, guidance=weights(guidance, self.gates, self.dtype))

    def is_finite(self) -> bool:
        """Return whether every number of the table is finite."""
        columns = (self.times, self.base, self.prediction, self.previous, self.noise)
        return all(bool(np.isfinite(column).all()) for column in columns)

    @cached_property
    def lines(self) -> Tensor:
        """Return the table as rows to compute with, ``dtype``, ``(E, 6 + H)``.

        time, guidance, noise, commit, base, prediction, previous …
        """
        columns = (self.times, self.guidance, self.noise, self.commit, self.base, self.prediction)
        table = np.column_stack([*columns, self.previous])
        return torch.from_numpy(table).to(self.dtype)


TIME, GUIDANCE, NOISE, COMMIT = range(4)
"""Columns of `Plan.lines`; from the fifth on they are `combine`'s."""
FACTORS = 4


def combine(factors: Tensor, base: Tensor, prediction: Tensor, history: Tensor) -> Tensor:
    """Return the new state, before noise; the order of operations fixes its bits.

    Args:
        factors: Columns of `Plan.lines` from `FACTORS` on, first dimension 2 + H; each broadcasts
            against the states.
        base: b.
        prediction: m.
        history: m', ``(N, H, …)``.
    """
    x = factors[0] * base + factors[1] * prediction
    for h in range(history.shape[1]):
        x = x + factors[2 + h] * history[:, h]
    return x


def integrate(
    plan: Plan,
    predict: Predict,
    x0: Tensor,
    noise: Callable[[int], Tensor] | None = None,
    *,
    reference: Predict | None = None,
    channels: int | None = None,
) -> Tensor:
    """Take a whole batch from noise to data.

    Args:
        plan: The sampler.
        predict: The network: the state, in the plan's dtype, and the time to the prediction, in
            any dtype.
        x0: Normal noise ``(N, C, S, S)``.
        noise: For a plan with noise: the fresh noise of evaluation k, or of `BEFORE_FIRST`, in the
            shape of ``x0``.
        reference: For a guided plan: what guidance leads away from, as ``predict``.
        channels: How many channels are guided; see `guide`.

    Returns:
        The final state, in the plan's dtype and the shape of ``x0``.

    Raises:
        InvalidRequestError: The plan needs ``noise`` or ``reference`` and there is none.
    """
    _check_sources(plan, noise, reference)
    x = plan.initial_scale * x0.to(plan.dtype)
    if noise is not None and plan.initial_noise:
        x = x + plan.initial_noise * noise(BEFORE_FIRST).to(plan.dtype)
    base = x
    history = torch.zeros((len(x), plan.history, *x.shape[1:]), dtype=x.dtype, device=x.device)
    for k, line in enumerate(plan.lines):
        t = float(plan.times[k])
        prediction = predict(x, t).to(plan.dtype)
        if reference is not None and plan.guidance[k] != 1:
            prediction = guide(
                prediction, reference(x, t).to(plan.dtype), line[GUIDANCE], channels=channels
            )
        x = combine(line[FACTORS:], base, prediction, history)
        if noise is not None and plan.noise[k]:
            x = x + line[NOISE] * noise(k).to(plan.dtype)
        history = torch.cat([prediction[:, None], history], dim=1)[:, : plan.history]
        base = x if plan.commit[k] else base
    return x


def _check_sources(plan: Plan, noise: object, reference: object) -> None:
    if noise is None and (plan.noise.any() or plan.initial_noise):
        raise InvalidRequestError("expected a noise source for a plan that adds noise, found none")
    if reference is None and (plan.guidance != 1).any():
        raise InvalidRequestError("expected a reference for a guided plan, found none")
