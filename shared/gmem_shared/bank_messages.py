"""The bank's messages (proto/bank/v1) to and from the types of the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import InvalidRequestError, OutOfRangeError
from gmem_shared.proto.bank.v1 import bank_pb2
from gmem_shared.rpc import fill_tensor, from_tensor, to_tensor
from gmem_shared.types import BankInfo, ClassInfo, DrawSpec, Neighbours, Snippets, VersionRef

VECTOR_DTYPES = ("float16", "float32")


def split(snippets: Snippets, counts: Sequence[int]) -> list[Snippets]:
    """Cut rows that were drawn together into one part per request; copies nothing."""
    if len(counts) == 1:
        return [snippets]
    ends = np.cumsum(counts, dtype=np.int64)
    return [
        replace(
            snippets,
            vectors=snippets.vectors[end - count : end],
            rows=snippets.rows[end - count : end],
            source_ids=snippets.source_ids[end - count : end],
            labels=snippets.labels[end - count : end],
            weights=snippets.weights[end - count : end],
        )
        for end, count in zip(ends.tolist(), counts, strict=True)
    ]


def join(parts: Sequence[Snippets]) -> Snippets:
    """Put the parts of a stream together."""
    return replace(
        parts[0],
        vectors=np.concatenate([part.vectors for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        source_ids=np.concatenate([part.source_ids for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )


def with_dtype(snippets: Snippets, dtype: str) -> Snippets:
    """Convert the vectors; an empty ``dtype`` leaves them as stored.

    Raises:
        InvalidRequestError: Neither float16 nor float32.
    """
    if dtype not in ("", *VECTOR_DTYPES):
        raise InvalidRequestError(f"dtype: expected 'float16', 'float32' or '', found {dtype!r}")
    if dtype in ("", snippets.vectors.dtype.name):
        return snippets
    return replace(snippets, vectors=snippets.vectors.astype(dtype))


def version_to_message(version: VersionRef) -> bank_pb2.Version:
    """Encode a version's identity."""
    return bank_pb2.Version(name=version.name, seq=version.seq, digest=version.digest)


def version_from_message(message: bank_pb2.Version) -> VersionRef:
    """Decode a version's identity."""
    return VersionRef(message.name, message.seq, message.digest)


def snippets_to_message(snippets: Snippets) -> bank_pb2.Snippets:
    """Encode rows."""
    message = bank_pb2.Snippets()
    fill_snippets(message, snippets)
    return message


def fill_snippets(message: bank_pb2.Snippets, snippets: Snippets) -> None:
    """Encode rows into an empty message that is part of an answer: one that is added is copied."""
    message.version.CopyFrom(version_to_message(snippets.version))
    message.encoder = snippets.encoder
    fill_tensor(message.vectors, snippets.vectors)
    fill_tensor(message.rows, snippets.rows)
    fill_tensor(message.source_ids, snippets.source_ids)
    fill_tensor(message.labels, snippets.labels)
    fill_tensor(message.weights, snippets.weights)


def snippets_from_message(message: bank_pb2.Snippets) -> Snippets:
    """Decode rows; the arrays are read-only views of the message."""
    return Snippets(
        version=version_from_message(message.version),
        encoder=message.encoder,
        vectors=from_tensor(message.vectors, "vectors", VECTOR_DTYPES, 2),
        rows=from_tensor(message.rows, "rows", ("int64",), 1),
        source_ids=from_tensor(message.source_ids, "source_ids", ("int64",), 1),
        labels=from_tensor(message.labels, "labels", ("int32",), 1),
        weights=from_tensor(message.weights, "weights", ("float64",), 1),
    )


def spec_to_message(spec: DrawSpec) -> bank_pb2.DrawSpec:
    """Encode a draw.

    Raises:
        OutOfRangeError: A number does not fit its field.
    """
    try:
        return bank_pb2.DrawSpec(
            count=spec.count,
            seed=spec.seed,
            labels=spec.labels,
            all_labels=spec.labels is None,
            offset=spec.offset,
        )
    except ValueError as error:
        raise OutOfRangeError(
            f"expected count, seed and offset in 0 … 2**64 - 1 and labels of 32 bits: {error}"
        ) from error


def spec_from_message(message: bank_pb2.DrawSpec) -> DrawSpec:
    """Decode a draw.

    Raises:
        InvalidRequestError: Both labels and ``all_labels`` are given.
    """
    if message.all_labels and message.labels:
        raise InvalidRequestError("specs: expected either labels or all_labels, found both")
    labels = None if message.all_labels else tuple(message.labels)
    return DrawSpec(message.count, message.seed, labels, message.offset)


def neighbours_to_message(neighbours: Neighbours) -> bank_pb2.SearchResponse:
    """Encode the answer of a search."""
    return bank_pb2.SearchResponse(
        version=version_to_message(neighbours.version),
        rows=to_tensor(neighbours.rows),
        scores=to_tensor(neighbours.scores),
        labels=to_tensor(neighbours.labels),
        source_ids=to_tensor(neighbours.source_ids),
        exact=neighbours.exact,
    )


def neighbours_from_message(message: bank_pb2.SearchResponse) -> Neighbours:
    """Decode the answer of a search."""
    return Neighbours(
        version=version_from_message(message.version),
        rows=from_tensor(message.rows, "rows", ("int64",), 2),
        scores=from_tensor(message.scores, "scores", ("float32",), 2),
        labels=from_tensor(message.labels, "labels", ("int32",), 2),
        source_ids=from_tensor(message.source_ids, "source_ids", ("int64",), 2),
        exact=message.exact,
    )


def info_to_message(info: BankInfo) -> bank_pb2.BankInfo:
    """Encode a bank's description."""
    return bank_pb2.BankInfo(
        version=version_to_message(info.version),
        encoder=info.encoder,
        dimension=info.dimension,
        rows=info.rows,
        dtype=info.dtype,
        normalized=info.normalized,
        classes=[
            bank_pb2.ClassInfo(id=c.id, name=c.name, aliases=c.aliases, rows=c.rows)
            for c in info.classes
        ],
        aliases=info.aliases,
    )


def info_from_message(message: bank_pb2.BankInfo) -> BankInfo:
    """Decode a bank's description."""
    return BankInfo(
        version=version_from_message(message.version),
        encoder=message.encoder,
        dimension=message.dimension,
        rows=message.rows,
        dtype=message.dtype,
        normalized=message.normalized,
        classes=tuple(ClassInfo(c.id, c.name, tuple(c.aliases), c.rows) for c in message.classes),
        aliases=tuple(message.aliases),
    )


def queries_from_message(message: bank_pb2.Tensor) -> NDArray[Any]:
    """Decode the queries of a search, float32 ``(q, d)``."""
    return from_tensor(message, "queries", ("float32",), 2)
