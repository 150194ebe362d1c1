"""The contract between the front end and the Triton model ``gmem``.

One bidirectional stream carries everything in flight. A request is the tensor ``OPERATION`` (one
BYTES element, JSON of one of the models below) and, for ``generate``, row tensors. Images
that finish together are one response (``IMAGES``, ``META``). ``describe``, ``models`` and ``check``
answer with ``META`` alone. ``cancel`` names a task's id. The last response of a request is marked
final, and may be empty. A failed request answers with a Triton error whose message is the JSON of
`gmem_shared.errors.to_problem`. What goes along with a request
(`gmem_shared.tracing`) are string parameters.

============  ======  ============  ==========================================================
tensor        dtype   shape         meaning
============  ======  ============  ==========================================================
OPERATION     BYTES   (1,)          JSON, see `Operation`
SNIPPETS      FP32    (n, d)        rows as stored in the bank, for a model that takes snippets
LABELS        INT32   (n,)          class ids or -1, for a model that takes labels
SEEDS         UINT64  (n,)          noise stream of each image
INDICES       INT64   (n,)          image number within its stream
IMAGES        UINT8   (k, h, w, c)  finished images
META          BYTES   (1,)          JSON list: `ImageMeta` of each image, or `ModelInfo`s
============  ======  ============  ==========================================================
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gmem_shared.errors import NotReadyError
from gmem_shared.types import ModelInfo

MODEL_NAME = "gmem"

OPERATION = "OPERATION"
SNIPPETS = "SNIPPETS"
LABELS = "LABELS"
SEEDS = "SEEDS"
INDICES = "INDICES"
IMAGES = "IMAGES"
META = "META"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generate(_Message):
    """Make one image per row."""

    op: Literal["generate"] = "generate"
    id: str
    model: str
    encoder: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None
    priority: Literal["interactive", "batch"] = "interactive"
    deadline_seconds: float | None = None


class Cancel(_Message):
    """Stop the task ``id``; its request still gets its final response."""

    op: Literal["cancel"] = "cancel"
    id: str


class Check(_Message):
    """Answer at once: empty, or with the reason why nothing can be generated."""

    op: Literal["check"] = "check"


class Describe(_Message):
    """Answer with one model's `gmem_shared.types.ModelInfo`."""

    op: Literal["describe"] = "describe"
    model: str


class Models(_Message):
    """Answer with the `ModelInfo` of the default version of every model."""

    op: Literal["models"] = "models"


Operation = Generate | Cancel | Check | Describe | Models
OPERATION_ADAPTER: TypeAdapter[Operation] = TypeAdapter(
    Annotated[Operation, Field(discriminator="op")]
)
MODEL_INFOS = TypeAdapter(list[ModelInfo])


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


IMAGE_METAS = TypeAdapter(list[ImageMeta])


def check_numpy(version: str) -> None:
    """Refuse the numpy versions with which Triton's Python stub corrupts tensors.

    Raises:
        NotReadyError: The version is 2 or newer.
    """
    if int(version.split(".")[0]) >= 2:
        raise NotReadyError(
            f"expected numpy 1 in the environment of the Triton model, found numpy {version}: with "
            "numpy 2 the Python stub silently corrupts every tensor; install 'numpy<2'"
        )
