from __future__ import annotations

import grpc
import numpy as np
import pytest

from gmem_shared import rpc
from gmem_shared.bank_messages import (
    snippets_from_message,
    snippets_to_message,
    spec_from_message,
    spec_to_message,
    split,
    with_dtype,
)
from gmem_shared.errors import (
    CancelledError,
    DeadlineExceededError,
    GmemError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
    OutOfRangeError,
    OverloadedError,
    TooLargeError,
    error_classes,
)
from gmem_shared.proto.bank.v1 import bank_pb2
from gmem_shared.types import DrawSpec, Snippets, VersionRef


class AbortedError(Exception):
    pass


class Context:
    """The part of a server's context that ends a call."""

    def set_trailing_metadata(self, metadata: tuple[tuple[str, bytes], ...]) -> None:
        self.metadata = metadata

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = code, details
        raise AbortedError


def failure(
    code: grpc.StatusCode, details: str = "", *metadata: tuple[str, bytes]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details=details
    )


@pytest.mark.parametrize("error_class", error_classes())
def test_every_error_crosses_the_wire_as_itself(error_class: type[GmemError]) -> None:
    context = Context()
    sent = error_class("détail", errors=[{"field": "f", "message": "m"}], retry_after_seconds=2.5)
    with pytest.raises(AbortedError):
        rpc.abort(context, sent)  # type: ignore[arg-type]
    received = rpc.error_of(failure(context.code, context.details, *context.metadata), "bank")
    assert type(received) is error_class
    assert (received.detail, received.errors) == (sent.detail, sent.errors)
    assert received.retry_after_seconds == 2.5


def test_metadata_stays_below_what_http2_headers_may_hold() -> None:
    context = Context()
    fields = [{"field": f"f{i}", "message": "m" * 50} for i in range(1000)]
    with pytest.raises(AbortedError):
        rpc.abort(context, InvalidRequestError("x" * 10**6, errors=fields))  # type: ignore[arg-type]
    assert sum(len(value) for _, value in context.metadata) < 4096


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", NotReadyError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceededError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "received message larger than max", TooLargeError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", OverloadedError),
        (grpc.StatusCode.CANCELLED, "", CancelledError),
        (grpc.StatusCode.INVALID_ARGUMENT, "", InvalidRequestError),
        (grpc.StatusCode.UNKNOWN, "boom", InternalError),
    ],
)
def test_failures_without_our_metadata_are_judged_by_status(
    code: grpc.StatusCode, details: str, expected: type[GmemError]
) -> None:
    error = rpc.error_of(failure(code, details), "bank service at host:1")
    assert type(error) is expected
    assert "bank service at host:1" in error.detail


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "int32", "float64"])
def test_tensors_survive_the_wire(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for sent in (array, array.T, array.astype(array.dtype.newbyteorder(">"))):
        wire = bank_pb2.Tensor.FromString(rpc.to_tensor(sent).SerializeToString())
        received = rpc.from_tensor(wire, "x", (dtype,), 2)
        assert received.dtype == dtype
        np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize(
    "tensor",
    [
        bank_pb2.Tensor(dtype="float32", shape=[2, 2], data=bytes(15)),
        bank_pb2.Tensor(dtype="float32", shape=[4], data=bytes(16)),
        bank_pb2.Tensor(dtype="object", shape=[1, 2], data=bytes(16)),
        bank_pb2.Tensor(dtype="float32", shape=[2**62, 4], data=b""),
        bank_pb2.Tensor(dtype="float32", shape=[2**63, 2**63], data=bytes(16)),
        bank_pb2.Tensor(dtype="float32", shape=[0, 2**63], data=b""),
        bank_pb2.Tensor(dtype="float32", shape=[2**63] * 100_000, data=b""),
        bank_pb2.Tensor(),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(tensor: bank_pb2.Tensor) -> None:
    with pytest.raises(InvalidRequestError, match="queries: expected"):
        rpc.from_tensor(tensor, "queries", ("float32",), 2)


@pytest.mark.parametrize(
    "spec", [DrawSpec(1, 2**64 - 1), DrawSpec(3, 0, (1, 2), 9), DrawSpec(1, 1, ())]
)
def test_draws_survive_the_wire(spec: DrawSpec) -> None:
    assert spec_from_message(spec_to_message(spec)) == spec


def test_draws_that_do_not_fit_or_contradict_are_refused() -> None:
    for spec in (DrawSpec(-1, 0), DrawSpec(1, 2**64), DrawSpec(1, 1, (2**40,))):
        with pytest.raises(OutOfRangeError):
            spec_to_message(spec)
    with pytest.raises(InvalidRequestError, match="either labels or all_labels"):
        spec_from_message(bank_pb2.DrawSpec(labels=[1], all_labels=True))


def snippets(count: int) -> Snippets:
    rows = np.arange(count)
    return Snippets(
        version=VersionRef("digits", 1, "sha256-00"),
        encoder="e",
        vectors=np.ones((count, 2), np.float16) * rows[:, None].astype(np.float16),
        rows=rows,
        source_ids=rows + 10,
        labels=rows.astype(np.int32),
        weights=rows / 2,
    )


def test_rows_are_split_by_request_without_a_copy() -> None:
    whole = snippets_from_message(snippets_to_message(snippets(6)))
    parts = split(whole, [1, 3, 2])
    assert [part.rows.tolist() for part in parts] == [[0], [1, 2, 3], [4, 5]]
    assert parts[1].vectors[:, 0].tolist() == [1, 2, 3]
    assert np.shares_memory(parts[1].vectors, whole.vectors)


def test_vectors_are_converted_only_on_demand() -> None:
    stored = snippets(2)
    assert with_dtype(stored, "") is stored
    assert with_dtype(stored, "float16") is stored
    assert with_dtype(stored, "float32").vectors.dtype == np.float32
    with pytest.raises(InvalidRequestError, match="float64"):
        with_dtype(stored, "float64")
