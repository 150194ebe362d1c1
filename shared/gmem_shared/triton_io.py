"""The contract between the front end and the Triton model ``gmem``.

One bidirectional stream carries everything. A request is the tensor ``OPERATION`` (one BYTES
element, JSON of one of the models below) and, for ``generate``, three row tensors. Each finished
image is one response (``IMAGE``, ``META``); an empty final response closes the request.
``describe`` and ``models`` answer with ``META`` alone. ``cancel`` names another request's id.
A failed request answers with a Triton error whose message is the JSON of
`gmem_shared.errors.to_problem`.

============  ======  ============  ==========================================================
tensor        dtype   shape         meaning
============  ======  ============  ==========================================================
OPERATION     BYTES   (1,)          JSON, see `Operation`
SNIPPETS      FP32    (n, d)        rows as stored in the bank
SEEDS         UINT64  (n,)          noise stream of each image
INDICES       INT64   (n,)          image number within its stream
IMAGE         UINT8   (h, w, c)     one finished image
META          BYTES   (1,)          JSON: `ImageMeta`, `ModelInfo` as a dict, or a list of those
============  ======  ============  ==========================================================
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MODEL_NAME = "gmem"

OPERATION = "OPERATION"
SNIPPETS = "SNIPPETS"
SEEDS = "SEEDS"
INDICES = "INDICES"
IMAGE = "IMAGE"
META = "META"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generate(_Message):
    """Make one image per row."""

    op: Literal["generate"] = "generate"
    id: str
    model: str
    encoder: str
    sampler: str | None = None
    num_steps: int | None = None
    priority: Literal["interactive", "batch"] = "interactive"
    deadline_seconds: float | None = None


class Cancel(_Message):
    """Stop the task ``id``; its request still gets its final response."""

    op: Literal["cancel"] = "cancel"
    id: str


class Describe(_Message):
    """Answer with one model's `gmem_shared.types.ModelInfo`."""

    op: Literal["describe"] = "describe"
    model: str


class Models(_Message):
    """Answer with the `ModelInfo` of the default version of every model."""

    op: Literal["models"] = "models"


Operation = Annotated[Generate | Cancel | Describe | Models, Field(discriminator="op")]
OPERATION_ADAPTER: TypeAdapter[Generate | Cancel | Describe | Models] = TypeAdapter(Operation)


class ImageMeta(_Message):
    """What is said beside one finished image."""

    position: int
    model_name: str
    model_seq: int
    model_digest: str
    evaluations: int
    queue_seconds: float
    denoise_seconds: float
    decode_seconds: float
