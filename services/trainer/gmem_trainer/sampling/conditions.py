"""The condition of each image of a job, computed from the image's number alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.snippet_selection import select_rows
from gmem_shared.bank_data import BankData
from gmem_shared.class_draw import draw_classes
from gmem_shared.draw import draw_rows
from gmem_shared.errors import UnknownClassError
from gmem_shared.model_config import LabelCondition, ModelConfig
from gmem_shared.types import DrawSpec
from gmem_trainer.sampling.job import Job


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the images of a batch are conditioned on.

    Attributes:
        values: As the network takes them: snippets float32 ``(n, d)`` or class ids int64 ``(n,)``.
        rows: int64 ``(n,)``, rows of the bank, -1 without a bank.
        labels: int64 ``(n,)``, class ids, -1 for none.
    """

    values: Tensor
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


Chooser = Callable[[NDArray[np.int64], Tensor], Conditions]
"""Consecutive image numbers ``(n,)`` and the images' initial latents to their conditions."""


def chooser(job: Job, config: ModelConfig, bank: BankData | None) -> Chooser:
    """Return the rule of a job; ``bank`` is there for a snippet model.

    Raises:
        UnknownClassError: The job wants a class that the model or the bank does not have.
    """
    if bank is not None and job.snippets == "by-noise":
        return _by_noise(bank)
    if bank is not None:
        return _drawn(job, bank)
    condition = config.architecture.condition
    if isinstance(condition, LabelCondition):
        return _labels(job, condition.num_classes)
    return _unconditional


def _by_noise(bank: BankData) -> Chooser:
    # Our rows are sorted by label. The order of the sources is the published file's, in which the
    # published rule counts; and without it, brighter noise would mean a higher class id.
    order = np.argsort(bank.source_ids, kind="stable")
    # A tombstoned row adds nothing to the cumulative weights, so its frequency is 0.
    frequencies = np.diff(bank.cumulative_weights).astype(np.int64)[order]

    def choose(indices: NDArray[np.int64], latents: Tensor) -> Conditions:
        return _snippets(bank, order[select_rows(latents.float(), frequencies).rows.numpy()])

    return choose


def _drawn(job: Job, bank: BankData) -> Chooser:
    # Only classes that have rows can be drawn from.
    classes = job.classes or tuple(info.id for info in bank.classes if info.rows)
    for label in job.classes:
        bank.class_rows(label)

    def choose(indices: NDArray[np.int64], latents: Tensor) -> Conditions:
        first = int(indices[0])
        specs = [DrawSpec(len(indices), job.seed, job.classes or None, first)]
        if job.balanced:
            specs = [
                DrawSpec(1, job.seed, (int(label),), index)
                for label, index in zip(
                    _in_turn(classes, indices), range(first, first + len(indices)), strict=True
                )
            ]
        return _snippets(bank, draw_rows(bank, specs))

    return choose


def _labels(job: Job, num_classes: int) -> Chooser:
    classes = job.classes or tuple(range(num_classes))
    unknown = [label for label in classes if not 0 <= label < num_classes]
    if unknown:
        raise UnknownClassError(
            f"expected class ids 0 … {num_classes - 1} of model {job.model}, found {unknown[0]}"
        )

    def choose(indices: NDArray[np.int64], latents: Tensor) -> Conditions:
        labels = (
            _in_turn(classes, indices)
            if job.balanced
            else draw_classes(classes, job.seed, indices).astype(np.int64)
        )
        return Conditions(torch.from_numpy(labels), _none(indices), labels)

    return choose


def _unconditional(indices: NDArray[np.int64], latents: Tensor) -> Conditions:
    none = _none(indices)
    return Conditions(torch.from_numpy(none), none, none)


def _snippets(bank: BankData, rows: NDArray[np.int64]) -> Conditions:
    drawn = bank.take(rows)
    values = torch.from_numpy(drawn.vectors.astype(np.float32))
    return Conditions(values, rows, drawn.labels.astype(np.int64))


def _in_turn(classes: Sequence[int], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array(classes, np.int64)[indices % len(classes)]


def _none(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.full(len(indices), -1, np.int64)
