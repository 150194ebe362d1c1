"""Bodies of the HTTP door."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gmem_bank.service import MAX_NEIGHBOURS, MAX_QUERIES, PublishedVersion
from gmem_shared.types import BankInfo, DrawSpec, Neighbours, Snippets, VersionRef

MAX_ROWS = 65536
"""Rows that one request may name, or have found."""
_MAX_LABELS = 65536
_MAX_FIELDS = 16
_EXACT = 2.0**53  # beyond, a float no longer says which integer was meant


def _whole(value: object) -> object:
    """JSON has one kind of number: ``7.0`` is the integer 7, as in JSON Schema."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


# The bounds stand inside the validator: outside, they would be missing from the API's schema.
UInt64 = Annotated[int, Field(ge=0, le=(1 << 64) - 1), BeforeValidator(_whole)]
Row = Annotated[int, Field(ge=-(1 << 53), le=1 << 53), BeforeValidator(_whole)]  # exact in JSON
Label = Annotated[int, Field(ge=0, le=(1 << 31) - 1), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1, le=(1 << 64) - 1), BeforeValidator(_whole)]
NeighbourCount = Annotated[int, Field(ge=1, le=MAX_NEIGHBOURS), BeforeValidator(_whole)]
Query = Annotated[list[float], Field(min_length=1, fail_fast=True)]
Labels = Annotated[list[Label], Field(min_length=1, max_length=_MAX_LABELS, fail_fast=True)]


class Body(BaseModel):
    """A request body; unknown fields are refused.

    Nothing in it is reported more than a few times, so a bad body costs no more than a good one:
    long lists fail fast, and the names are counted before they are looked at.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_number_of_fields(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise ValueError(f"expected at most {_MAX_FIELDS} fields, found {len(data)}")
        return data


class DrawSpecBody(Body):
    """Rows ``offset … offset + count - 1`` of a seed's stream."""

    count: Count = 1
    seed: UInt64
    labels: Labels | None = None
    """Class ids; none draws over the whole bank."""
    offset: UInt64 = 0

    def to_spec(self) -> DrawSpec:
        """Convert to the product's type."""
        labels = None if self.labels is None else tuple(self.labels)
        return DrawSpec(self.count, self.seed, labels, self.offset)


class DrawBody(Body):
    """Several draws, all from one version."""

    specs: list[DrawSpecBody] = Field(min_length=1, max_length=4096)


class GatherBody(Body):
    """Row numbers, in the order wanted."""

    rows: list[Row] = Field(max_length=MAX_ROWS, fail_fast=True)


class SearchBody(Body):
    """Vectors of the bank's dimension, and how many neighbours of each."""

    queries: list[Query] = Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)
    count: NeighbourCount = 10
    labels: Labels | None = None


class AliasBody(Body):
    """Where to point an alias, and why."""

    selector: str = Field(min_length=1, max_length=80)
    reason: str = Field(default="", max_length=1000)


class VersionAnswer(BaseModel):
    """The identity of a version."""

    name: str
    seq: int
    digest: str

    @classmethod
    def of(cls, version: VersionRef) -> VersionAnswer:
        """Convert from the product's type."""
        return cls(name=version.name, seq=version.seq, digest=version.digest)


class TensorAnswer(BaseModel):
    """An array: little-endian bytes in C order, as base64."""

    dtype: str
    shape: list[int]
    data: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> TensorAnswer:
        """Encode an array."""
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return cls(dtype=array.dtype.name, shape=list(array.shape), data=data)


class SnippetsAnswer(BaseModel):
    """Rows of one version, column by column; ``counts`` cuts them by draw."""

    bank: VersionAnswer
    encoder: str
    counts: list[int]
    rows: list[int]
    source_ids: list[int]
    labels: list[int]
    weights: list[float]
    vectors: TensorAnswer

    @classmethod
    def of(cls, snippets: Snippets, counts: list[int]) -> SnippetsAnswer:
        """Convert from the product's type."""
        return cls(
            bank=VersionAnswer.of(snippets.version),
            encoder=snippets.encoder,
            counts=counts,
            rows=snippets.rows.tolist(),
            source_ids=snippets.source_ids.tolist(),
            labels=snippets.labels.tolist(),
            weights=snippets.weights.tolist(),
            vectors=TensorAnswer.of(snippets.vectors),
        )


class NeighbourAnswer(BaseModel):
    """One row found."""

    row: int
    score: float
    label: int
    source_id: int


class SearchAnswer(BaseModel):
    """For each query, the rows found, best first."""

    bank: VersionAnswer
    exact: bool
    neighbours: list[list[NeighbourAnswer]]

    @classmethod
    def of(cls, found: Neighbours) -> SearchAnswer:
        """Convert from the product's type, dropping the padding of short lists."""
        columns = (found.rows, found.scores, found.labels, found.source_ids)
        return cls(
            bank=VersionAnswer.of(found.version),
            exact=found.exact,
            neighbours=[
                [
                    NeighbourAnswer(row=row, score=score, label=label, source_id=source_id)
                    for row, score, label, source_id in zip(*lists, strict=True)
                    if row >= 0
                ]
                for lists in zip(*(column.tolist() for column in columns), strict=True)
            ],
        )


class ClassAnswer(BaseModel):
    """One class; ``rows`` counts what a draw can return."""

    id: int
    name: str
    aliases: list[str]
    rows: int


class BankAnswer(BaseModel):
    """A bank version."""

    bank: VersionAnswer
    encoder: str
    dimension: int
    rows: int
    dtype: str
    normalized: bool
    classes: list[ClassAnswer]
    aliases: list[str]

    @classmethod
    def of(cls, info: BankInfo) -> BankAnswer:
        """Convert from the product's type."""
        return cls(
            bank=VersionAnswer.of(info.version),
            encoder=info.encoder,
            dimension=info.dimension,
            rows=info.rows,
            dtype=info.dtype,
            normalized=info.normalized,
            classes=[
                ClassAnswer(id=c.id, name=c.name, aliases=list(c.aliases), rows=c.rows)
                for c in info.classes
            ],
            aliases=list(info.aliases),
        )


class VersionRecordAnswer(BaseModel):
    """One entry of a bank's log."""

    bank: VersionAnswer
    message: str
    published_at: datetime
    aliases: list[str]

    @classmethod
    def of(cls, published: PublishedVersion) -> VersionRecordAnswer:
        """Convert from the store's type."""
        return cls(
            bank=VersionAnswer.of(published.version.ref),
            message=published.version.message,
            published_at=published.version.published_at,
            aliases=list(published.aliases),
        )


class AliasAnswer(BaseModel):
    """Where an alias points now."""

    bank: VersionAnswer
    alias: str
    generation: int


class ReadyAnswer(BaseModel):
    """The service answers; ``problems`` are those it lives with."""

    ready: bool
    problems: list[str]
