"""The JSON of the API: what a request may say and what an answer says."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from gmem_shared.types import ConditionKind, Priority

MAX_SEED = 2**64 - 1
_REFERENCE = r"^[a-z0-9][a-z0-9._-]{0,62}(@[A-Za-z0-9][A-Za-z0-9._-]{0,79})?$"

Row = Annotated[int, Field(ge=0, le=2**63 - 1)]
GuidanceScale = Annotated[float, Field(ge=0, le=100, examples=[1.5])]
DeadlineMs = Annotated[int, Field(ge=1, le=3_600_000, examples=[30_000])]
Reference = Annotated[str, Field(pattern=_REFERENCE, examples=["digits@production"])]


def _id_or_name(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise PydanticCustomError(
            "class_label_type", "expected a class id (integer) or a class name (string)"
        )
    return value


class Body(BaseModel):
    """Strict and closed: no coercion, no unknown member."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class Memory(Body):
    """Chooses rows of the bank by hand: either exactly these, or any but these."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, "maxProperties": 1},
    )

    rows: list[Row] = Field(default_factory=list, min_length=1, max_length=1024, examples=[[17]])
    """Row numbers, used in turn: image ``i`` comes from ``rows[i % len(rows)]``."""

    exclude: list[Row] = Field(default_factory=list, min_length=1, max_length=65536)
    """Row numbers that are never drawn; the draw is over all classes."""

    @model_validator(mode="after")
    def _one_of(self) -> Memory:
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError("memory_choice", "expected exactly one of 'rows', 'exclude'")
        return self


_BOTH: JsonDict = {
    "required": ["class_label", "memory"],
    "properties": {name: {"not": {"type": "null"}} for name in ("class_label", "memory")},
}


class GenerateRequest(Body):
    """Make images of one class, of all classes, or from chosen rows of the memory bank.

    ``bank`` and ``memory`` are for models that draw from a memory bank, ``class_label`` for all but
    unconditional ones: see ``condition`` in ``GET /models``.
    """

    model_config = ConfigDict(json_schema_extra={"not": _BOTH})

    class_label: Annotated[int | str | None, BeforeValidator(_id_or_name)] = Field(
        default=None, examples=[7, "seven"]
    )
    """Class id, name or alias (in any case), see ``GET /classes``; omitted: each image's row, or
    its class, is drawn over all classes."""

    num_images: int | None = Field(default=None, ge=1, examples=[4])
    """How many images; by default one, or one per row of ``memory.rows``."""

    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, examples=[42])
    """Same seed, same request, same versions: same images, bit for bit. Random when omitted."""

    num_steps: int | None = Field(default=None, ge=1, examples=[32])
    """Steps of the sampler; by default the model's."""

    sampler: str | None = Field(default=None, min_length=1, max_length=64, examples=["heun"])
    """One of ``GET /samplers``; by default the model's."""

    guidance_scale: GuidanceScale | None = None
    """How strongly the condition is followed; 1 is no guidance. By default the model's; a model
    without ``default_guidance_scale`` in ``GET /models`` takes none but 1."""

    bank: Reference | None = None
    """``name``, ``name@alias``, ``name@sequence`` or ``name@digest``; by default the model's."""

    model: Reference | None = None
    """``name``, ``name@alias``, ``name@sequence`` or ``name@digest``."""

    memory: Memory | None = None
    """Replaces ``class_label``; the two are never given together."""

    deadline_ms: DeadlineMs | None = None
    """The whole answer must be ready within this time, or the request fails with 504."""

    priority: Priority = "interactive"
    """``batch`` yields to ``interactive`` in the engine."""

    @model_validator(mode="after")
    def _label_or_memory(self) -> GenerateRequest:
        if self.class_label is not None and self.memory is not None:
            raise PydanticCustomError(
                "label_or_memory", "expected 'class_label' or 'memory', found both"
            )
        return self


class ReplayRequest(Body):
    """Make one image of an earlier answer again."""

    replay: str = Field(min_length=1, max_length=2048)
    """``images[].replay`` of an earlier answer."""

    deadline_ms: DeadlineMs | None = None
    """As in `GenerateRequest`."""

    priority: Priority = "interactive"
    """As in `GenerateRequest`."""


def _kind(body: Any) -> str:
    return "replay" if isinstance(body, dict) and "replay" in body else "generate"


GenerateBody = Annotated[
    Annotated[GenerateRequest, Tag("generate")] | Annotated[ReplayRequest, Tag("replay")],
    Discriminator(_kind),
]


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Version(Answer):
    """The identity of one published version."""

    name: str
    seq: int
    digest: str


class SnippetUse(Answer):
    """A row of the memory bank that an image was made from."""

    row: int
    """Row number within the bank version."""
    source_id: int
    """The image the row was made from; stable across bank versions."""
    label: int | None
    """Class id of the row."""
    weight: float
    """Share of the row in its class, relative to the mean."""


class ImageAnswer(Answer):
    """One finished image and what it was made from."""

    index: int
    """Number of the image within its seed's stream."""
    seed: int
    b64_png: str
    """The PNG, base64; its text chunks carry the same provenance."""
    width: int
    height: int
    class_label: int | None
    class_name: str | None
    snippets: list[SnippetUse]
    """Empty for a model that draws from no bank."""
    replay: str
    """Send ``{"replay": …}`` to make the same image again, bit for bit."""


class Usage(Answer):
    """What the answer cost."""

    network_evaluations: int


class Timings(Answer):
    """Where the time went, in milliseconds; engine stages are those of the last image to finish."""

    parse: float
    """Reading and checking the request."""
    plan: float
    """Finding bank, model and class."""
    bank: float
    """Drawing or gathering rows."""
    queue: float
    denoise: float
    decode: float
    handover: float
    """To the engine and back."""
    encode: float
    """PNG."""
    answer: float
    """JSON."""
    total: float


class Completed(Answer):
    """An answer without its images: the last event of a stream."""

    id: str
    bank: Version | None
    """``null`` for a model that draws from no bank."""
    model: Version
    usage: Usage
    timings_ms: Timings


class GenerateAnswer(Answer):
    """The images, each with its provenance."""

    id: str
    bank: Version | None
    """``null`` for a model that draws from no bank."""
    model: Version
    images: list[ImageAnswer]
    usage: Usage
    timings_ms: Timings


class ClassAnswer(Answer):
    """One class of a bank or of a label model."""

    id: int
    name: str
    aliases: list[str]
    rows: int | None
    """Rows of the bank that a draw can return."""


class ClassesAnswer(Answer):
    """The classes of one bank version, or of one version of a label model."""

    bank: Version | None
    model: Version | None
    classes: list[ClassAnswer]


class BankAnswer(Answer):
    """One bank, in its default version."""

    version: Version
    encoder: str
    dimension: int
    rows: int
    classes: int
    aliases: list[str]


class BanksAnswer(Answer):
    """Every bank of the store."""

    banks: list[BankAnswer]


class ModelAnswer(Answer):
    """One model, in its default version."""

    version: Version
    condition: ConditionKind
    """What an image is made from: a row of a memory bank, a class label, or neither."""
    width: int
    height: int
    channels: int
    samplers: list[str]
    default_sampler: str
    default_steps: int
    max_steps: int
    default_guidance_scale: float | None
    """``null``: the model cannot be guided; 1: no guidance unless asked for."""
    classes: int | None
    """Number of classes of a label model; those of other models are their bank's."""
    encoder: str | None
    """Of the snippets, for a model that draws from a bank."""
    default_bank: str | None
    aliases: list[str]
    """Those that have been asked for and lead to this version."""


class ModelsAnswer(Answer):
    """Every model of the store, and the one a request gets that names none."""

    default: str
    models: list[ModelAnswer]


class SamplersAnswer(Answer):
    """The samplers of one model version."""

    model: Version
    samplers: list[str]
    default_sampler: str
    default_steps: int
    max_steps: int
    default_guidance_scale: float | None
    """``null``: the model cannot be guided; 1: no guidance unless asked for."""


class Part(Answer):
    """One part the front end needs."""

    ready: bool
    reason: str | None = None


class LiveAnswer(Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class ReadyAnswer(Answer):
    """Every part that the default model needs is ready."""

    status: Literal["ready"] = "ready"
    parts: dict[str, Part]


class FieldProblem(Answer):
    """What is wrong with one field."""

    field: str
    message: str


class OpenAIError(Answer):
    """The same problem in the shape OpenAI clients read."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(Answer):
    """Every error, in the form of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    """What was expected, what was found and what to do."""
    code: str
    """Stable name of the error."""
    error: OpenAIError
    errors: list[FieldProblem] = []
    """For invalid input, what is wrong field by field."""
    retry_after_seconds: float | None = None
    """When trying again makes sense; also sent as ``Retry-After``."""
    request_id: str | None = None
    """The ``X-Request-Id`` under which the server logged the request."""
    parts: dict[str, Part] | None = None
    """``/readyz`` only: which part is not ready, and why."""


class JobImages(Answer):
    """How far a job is."""

    done: int
    """Images that are stored."""
    total: int


class JobLinks(Answer):
    """Where to go from a job."""

    self: str
    """Its state; ``DELETE`` cancels it."""
    events: str
    """Its progress, as server-sent events."""
    result: str | None
    """The images, once it succeeded."""


class JobSummary(Answer):
    """A job and how it is doing."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    images: JobImages
    created_at: datetime
    started_at: datetime | None
    """When it began, or began again."""
    ended_at: datetime | None
    expires_at: datetime | None
    """When it and its result will be deleted; known when it has ended."""
    seconds_left: float | None
    """Estimated from its pace so far."""
    bank: Version | None
    """``null`` for a model that draws from no bank."""
    model: Version
    error: Problem | None
    """Why it failed."""
    links: JobLinks


class JobAnswer(JobSummary):
    """A job and what it makes."""

    request: dict[str, Any]
    """What was asked for, with seed, versions and defaults filled in: without ``Prefer`` it makes
    the same images, as far as one answer may have as many."""


class JobsAnswer(Answer):
    """Some of the caller's jobs, newest first."""

    jobs: list[JobSummary]
    total: int
    """How many there are."""
