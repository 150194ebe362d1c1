"""What a pool and its processes say to each other, in lists, over a pipe between them.

The pipe is private to parent and child, which run the same code: its pickles come from nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric

from gmem_shared.errors import GmemError
from gmem_shared.settings import EngineSettings, LogSettings, RedisSettings, StoreSettings
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo, VersionRef


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to a process: all it has to know."""

    store: StoreSettings
    engine: EngineSettings
    log: LogSettings
    default_model: str
    redis: RedisSettings = field(default_factory=RedisSettings)


@dataclass(frozen=True, slots=True)
class Submit:
    """Make these images."""

    task: GenerationTask


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a task; its id may be unknown by now."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Load this model version: tasks for it will follow."""

    model: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Describe this model, or all; an `Answer` of the same number follows."""

    number: int
    model: str | None


@dataclass(frozen=True, slots=True)
class Close:
    """Finish the accepted tasks and end."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One image of a task."""

    task_id: str
    image: GeneratedImage


@dataclass(frozen=True, slots=True)
class Failed:
    """No further image of the task will come; perhaps none did."""

    task_id: str
    error: GmemError


@dataclass(frozen=True, slots=True)
class State:
    """What keeps the default model from being served, if anything; which versions are loaded."""

    problem: str | None
    versions: frozenset[VersionRef]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything in the process's registry."""

    families: Sequence[Metric]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an `Ask`."""

    number: int
    content: list[ModelInfo] | GmemError


ToChild = Submit | Cancel | Prepare | Ask | Close
FromChild = Finished | Failed | State | Metrics | Answer


def _array(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.ndarray(shape, dtype, bytearray(content))  # writable, as the original


def _reduced_array(array: NDArray[Any]) -> tuple[Any, ...]:
    return _array, (array.tobytes(), array.dtype.str, array.shape)


def _reduced(value: Any) -> tuple[Any, ...]:
    return type(value), tuple(getattr(value, name) for name in _FIELDS[type(value)])


# What each task and image consists of. The general way, by way of each class's state, takes two to
# three times as long.
_FIELDS = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (Submit, GenerationTask, Finished, GeneratedImage, VersionRef)
}
ForkingPickler.register(np.ndarray, _reduced_array)
for _kind in _FIELDS:
    ForkingPickler.register(_kind, _reduced)
