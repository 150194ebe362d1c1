"""What a task must look like before it may wait for the engine."""

from __future__ import annotations

import numpy as np

from gmem_shared.errors import (
    DeadlineExceededError,
    EncoderMismatchError,
    InvalidRequestError,
    OutOfRangeError,
)
from gmem_shared.model_config import ModelConfig
from gmem_shared.types import GenerationTask, VersionRef


def resolve_sampler(task: GenerationTask, config: ModelConfig, max_steps: int) -> tuple[str, int]:
    """Return the sampler and the number of steps of a task, by default the model's own.

    Raises:
        OutOfRangeError: The number of steps is not within 1 … ``max_steps``.
    """
    num_steps = config.default_steps if task.num_steps is None else task.num_steps
    if not 1 <= num_steps <= max_steps:
        raise OutOfRangeError(
            f"expected num_steps of 1 to {max_steps}, found {num_steps}",
            errors=[{"field": "num_steps", "message": f"must be 1 to {max_steps}"}],
        )
    return task.sampler or config.default_sampler, num_steps


def check_task(task: GenerationTask, config: ModelConfig, version: VersionRef) -> None:
    """Refuse a task that this model cannot turn into images.

    Raises:
        InvalidRequestError: The arrays do not fit each other or the model.
        OutOfRangeError: There is no row, an index is negative or a snippet is not finite.
        EncoderMismatchError: The snippets come from another encoder than the model's.
        DeadlineExceededError: The deadline has passed already.
    """
    if len(task) == 0:
        raise OutOfRangeError("expected a task of at least 1 image, found none")
    if task.encoder != config.encoder:
        raise EncoderMismatchError(
            f"model {version} was trained with snippets of encoder {config.encoder!r}, these come "
            f"from encoder {task.encoder!r}; use a bank made with {config.encoder!r} (the model's "
            f"default is {config.default_bank!r}) or a model trained with {task.encoder!r}"
        )
    _check_rows(task, config.architecture.snippet_dimension)
    if task.deadline_seconds is not None and not task.deadline_seconds > 0:
        raise DeadlineExceededError(
            f"the deadline had passed when the task arrived ({task.deadline_seconds} s left)"
        )


def _check_rows(task: GenerationTask, dimension: int) -> None:
    expected = (len(task), dimension)
    if task.snippets.shape != expected or task.indices.shape != expected[:1]:
        raise InvalidRequestError(
            f"expected snippets {expected} and indices {expected[:1]} for {len(task)} seeds, "
            f"found {task.snippets.shape} and {task.indices.shape}"
        )
    if (task.indices < 0).any():
        raise OutOfRangeError(f"expected indices of at least 0, found {task.indices.min()}")
    finite = np.isfinite(task.snippets).all(axis=1)
    if not finite.all():
        raise OutOfRangeError(
            f"expected finite snippets, found NaN or infinity in row {int(np.argmin(finite))}"
        )
