"""What a task must look like before it may wait for the engine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import (
    DeadlineExceededError,
    EncoderMismatchError,
    InvalidRequestError,
    OutOfRangeError,
)
from gmem_shared.model_config import (
    Condition,
    Guidance,
    LabelCondition,
    ModelConfig,
    SnippetCondition,
)
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


def resolve_guidance(task: GenerationTask, config: ModelConfig) -> Guidance | None:
    """Return the guidance of a task: the model's own, at the scale that the task asks for.

    Raises:
        InvalidRequestError: The model cannot be guided.
        OutOfRangeError: The scale is negative or not finite.
    """
    scale = task.guidance_scale
    if scale is None:
        return config.guidance
    if not (math.isfinite(scale) and scale >= 0):
        raise OutOfRangeError(
            f"expected a finite guidance_scale of at least 0, found {scale}",
            errors=[{"field": "guidance_scale", "message": "must be finite and at least 0"}],
        )
    if config.guidance is not None:
        return config.guidance.model_copy(update={"scale": scale})
    if scale == 1:
        return None
    raise InvalidRequestError(
        f"expected no guidance_scale, or 1, for a model that cannot be guided; found {scale}",
        errors=[{"field": "guidance_scale", "message": "must be 1 for this model"}],
    )


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
    _check_rows(task)
    _check_condition(task, config.architecture.condition)
    if task.deadline_seconds is not None and not task.deadline_seconds > 0:
        raise DeadlineExceededError(
            f"the deadline had passed when the task arrived ({task.deadline_seconds} s left)"
        )


def _check_rows(task: GenerationTask) -> None:
    if task.indices.shape != (len(task),):
        raise InvalidRequestError(
            f"expected {len(task)} indices, one for each seed, found shape {task.indices.shape}"
        )
    if (task.indices < 0).any():
        raise OutOfRangeError(f"expected indices of at least 0, found {task.indices.min()}")


def _check_condition(task: GenerationTask, condition: Condition) -> None:
    expected = {"snippet": task.snippets, "label": task.labels, "none": None}[condition.kind]
    given = [array for array in (task.snippets, task.labels) if array is not None]
    if (expected is None) != (condition.kind == "none") or len(given) != (expected is not None):
        raise InvalidRequestError(
            f"expected the rows of a model whose condition is {condition.kind!r}, found "
            f"{'snippets' if task.snippets is not None else 'no snippets'} and "
            f"{'labels' if task.labels is not None else 'no labels'}"
        )
    if isinstance(condition, SnippetCondition) and task.snippets is not None:
        _check_snippets(task.snippets, (len(task), condition.dimension))
    if isinstance(condition, LabelCondition) and task.labels is not None:
        _check_labels(task.labels, len(task), condition.num_classes)


def _check_snippets(snippets: NDArray[np.float32], expected: tuple[int, int]) -> None:
    if snippets.shape != expected:
        raise InvalidRequestError(f"expected snippets {expected}, found {snippets.shape}")
    finite = np.isfinite(snippets).all(axis=1)
    if not finite.all():
        raise OutOfRangeError(
            f"expected finite snippets, found NaN or infinity in row {int(np.argmin(finite))}"
        )


def _check_labels(labels: NDArray[np.int32], count: int, num_classes: int) -> None:
    if labels.shape != (count,):
        raise InvalidRequestError(f"expected {count} labels, found shape {labels.shape}")
    if labels.min() < -1 or labels.max() >= num_classes:
        raise OutOfRangeError(
            f"expected class ids of 0 to {num_classes - 1} or -1 for none, "
            f"found {labels.min()} to {labels.max()}"
        )
