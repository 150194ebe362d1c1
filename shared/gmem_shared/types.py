"""The values that cross a border between services. No torch, no faiss, no web framework."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import InvalidRequestError

DEFAULT_ALIAS = "production"

Kind = Literal["banks", "models"]
Priority = Literal["interactive", "batch"]
ConditionKind = Literal["snippet", "label", "none"]
"""What a network is conditioned on: a row of a bank, a class id, or nothing."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SELECTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A bank or model as people name it: ``digits``, ``digits@production``, ``digits@3``.

    ``selector`` is an alias, a sequence number or a digest (``sha256-…``).
    """

    name: str
    selector: str = DEFAULT_ALIAS

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``name[@selector]``.

        Raises:
            InvalidRequestError: The text does not have that form.
        """
        name, _, selector = text.partition("@")
        selector = selector or DEFAULT_ALIAS
        if not _NAME.fullmatch(name) or not _SELECTOR.fullmatch(selector):
            raise InvalidRequestError(
                f"expected a reference like 'digits', 'digits@production' or 'digits@3', "
                f"found {text[:100]!r}"
            )
        return cls(name, selector)

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}"


@dataclass(frozen=True, slots=True)
class VersionRef:
    """The identity of one published version."""

    name: str
    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.seq}"


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of a bank. ``rows`` counts the rows a draw can return."""

    id: int
    name: str
    aliases: tuple[str, ...] = ()
    rows: int = 0


@dataclass(frozen=True, slots=True)
class BankInfo:
    """What a bank version says about itself."""

    version: VersionRef
    encoder: str
    dimension: int
    rows: int
    dtype: str
    normalized: bool
    classes: tuple[ClassInfo, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrawSpec:
    """A request for ``count`` rows, numbers ``offset … offset+count-1`` of the seed's stream.

    ``labels`` restricts the draw to these class ids; ``None`` draws over all classes.
    """

    count: int
    seed: int
    labels: tuple[int, ...] | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Snippets:
    """Rows of one bank version.

    Attributes:
        vectors: float32 or float16 ``(n, d)``, exactly as stored (see ``BankInfo.normalized``).
        rows: int64 ``(n,)``, row numbers within the version.
        source_ids: int64 ``(n,)``, the image each row was made from; stable across versions.
        labels: int32 ``(n,)``, class ids, -1 for none.
        weights: float64 ``(n,)``, the row's share of its class, relative to the mean (1.0).
        encoder: Id of the encoder that made the vectors.
    """

    version: VersionRef
    encoder: str
    vectors: NDArray[np.floating[Any]]
    rows: NDArray[np.int64]
    source_ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest rows per query, best first; short lists are padded with row -1.

    Attributes:
        rows: int64 ``(q, k)``.
        scores: float32 ``(q, k)``, cosine similarity.
        labels: int32 ``(q, k)``.
        source_ids: int64 ``(q, k)``.
        exact: Whether every matching row was compared.
    """

    version: VersionRef
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    source_ids: NDArray[np.int64]
    exact: bool


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """A list of rows for the engine: everything an image depends on, resolved.

    Attributes:
        seeds: uint64 ``(n,)``, the noise stream of each image.
        indices: int64 ``(n,)``, the image number within its seed's stream.
        snippets: float32 ``(n, d)``, as stored in the bank; for a model that takes snippets.
        encoder: Encoder id of the bank; the engine refuses another one than its model's.
        labels: int32 ``(n,)``, class ids or -1 for none; for a model that takes labels.
        sampler, num_steps, guidance_scale: ``None`` takes the model's default.
        deadline_seconds: From now; ``None`` waits for ever.
        request_id: Of the request it is made for; for the logs.
    """

    id: str
    model: str
    seeds: NDArray[np.uint64]
    indices: NDArray[np.int64]
    snippets: NDArray[np.float32] | None = None
    encoder: str | None = None
    labels: NDArray[np.int32] | None = None
    sampler: str | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None
    priority: Priority = "interactive"
    deadline_seconds: float | None = None
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One finished image of a task.

    Attributes:
        position: Place of the image in its task, 0 … n-1.
        pixels: uint8 ``(height, width, channels)``, channels 1 or 3.
        evaluations: Network evaluations spent on this image.
        queue_seconds, denoise_seconds, decode_seconds: Where its time went in the engine.
    """

    position: int
    pixels: NDArray[np.uint8]
    model: VersionRef
    evaluations: int
    queue_seconds: float = 0.0
    denoise_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def stages(self) -> dict[str, float]:
        """Where its time went, in order: queue, denoise, decode."""
        return {
            "queue": self.queue_seconds,
            "denoise": self.denoise_seconds,
            "decode": self.decode_seconds,
        }


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model version says about itself, as far as a front end needs it."""

    version: VersionRef
    condition: ConditionKind
    image_shape: tuple[int, int, int]
    """height, width, channels"""
    samplers: tuple[str, ...]
    default_sampler: str
    default_steps: int
    max_steps: int
    encoder: str | None = None
    """of the snippets; of snippet models only, like the next three"""
    snippet_dimension: int | None = None
    default_bank: str | None = None
    training_bank: str | None = None
    """stands in for the default bank while that is of another encoder"""
    classes: tuple[ClassInfo, ...] = ()
    """of label models; their ``rows`` is 0"""
    default_guidance_scale: float | None = None
    """1 is no guidance; ``None``: the model cannot be guided"""
    aliases: tuple[str, ...] = ()
    """that were asked for and lead here"""
