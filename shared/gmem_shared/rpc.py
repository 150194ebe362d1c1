"""gRPC as we use it: channel and server options, errors as statuses, arrays as messages."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, TypeAlias

import grpc
import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import (
    PROBLEM_METADATA_KEY,
    CancelledError,
    DeadlineExceededError,
    GmemError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    from_problem,
    status_of,
    to_problem,
)
from gmem_shared.proto.bank.v1 import bank_pb2

UNARY_BYTES = 16 << 20
"""Largest unary answer of ours; beyond, a stream is offered."""
MESSAGE_BYTES = 32 << 20
"""Largest message accepted; gRPC's own default of 4 MiB binds clients, too."""

_MAX_DETAIL = 1000
_MAX_FIELD_ERRORS = 10
_KEEPALIVE_MS = 20_000
_CONNECTION_AGE_MS = 60_000
"""A client looks its service's name up again when it loses a connection, and not before: this is
how long a new replica waits for its share."""
_RETRY_AFTER_SECONDS = 1.0

_LITTLE_ENDIAN = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float16", "float32", "float64", "int32", "int64")
}

Options = list[tuple[str, Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behavior: TypeAlias = Callable[..., Any]

_TRANSPORT: Options = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # A window that holds an answer: with gRPC's own, which begins at 64 KiB and is fitted while
    # messages pass, 256 rows took 1.3 times as long.
    ("grpc.http2.lookahead_bytes", UNARY_BYTES),
    ("grpc.http2.bdp_probe", 0),
]


def channel(
    address: str,
    retried: Sequence[tuple[str, str]],
    credentials: grpc.ChannelCredentials | None = None,
) -> grpc.aio.Channel:
    """Open a channel that reconnects within a second or two of a service's return.

    Calls go to all addresses that the host stands for, in turn.

    Args:
        address: ``host:port``.
        retried: (service, method) pairs without effects; they are tried again, within the call's
            deadline, when the service is unavailable.
        credentials: How the service is known; by default it speaks no TLS.
    """
    retry_policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [{"service": service, "method": method} for service, method in retried]
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": retry_policy}],
    }
    options = [
        *_TRANSPORT,
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS // 4),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if credentials is not None:
        return grpc.aio.secure_channel(address, credentials, options=options)
    return grpc.aio.insecure_channel(address, options=options)


def server(
    pool: Executor,
    *,
    max_concurrent: int,
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
) -> grpc.Server:
    """Make a server whose handlers run on ``pool``; beyond ``max_concurrent`` calls are refused."""
    options = [
        *_TRANSPORT,
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
        # Calls in flight end on the old connection, new ones begin on the next.
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_AGE_MS),
    ]
    return grpc.server(
        pool,  # type: ignore[arg-type] # nothing is asked of it but `submit`
        interceptors=list(interceptors),
        options=options,
        maximum_concurrent_rpcs=max_concurrent,
    )


class Few(grpc.ServerInterceptor):  # type: ignore[type-arg] # it takes none when it runs
    """gRPC interceptor: services that are open to all have a few threads of their own.

    A call keeps a thread from its beginning, and its message may never come.

    Args:
        services: Their full names.
        limit: Calls at once; more are refused.
    """

    def __init__(self, services: Iterable[str], limit: int) -> None:
        self._paths = tuple(f"/{service}/" for service in services)
        self._limit = limit
        self._places = threading.BoundedSemaphore(limit)
        self._pool = ThreadPoolExecutor(limit + 1, "grpc-few")  # one refuses

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call, or one that does the same on the few threads.

        That one is called before the message is there, so that it can refuse to wait for it.
        """
        handler = continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._paths):
            return handler
        coding = handler.request_deserializer, handler.response_serializer
        if handler.stream_stream is not None:
            stream = self._streaming(handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(stream, *coding)
        if handler.unary_stream is not None:
            answer = self._answering(handler.unary_stream)
            return grpc.stream_stream_rpc_method_handler(answer, *coding)
        assert handler.unary_unary is not None  # noqa: S101 (neither service has the fourth kind)
        answer = self._answering(handler.unary_unary)
        return grpc.stream_unary_rpc_method_handler(answer, *coding)

    def _streaming(self, behavior: Behavior) -> Behavior:
        def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._place(context):
                yield from behavior(requests, context)

        return self._moved(stream)

    def _answering(self, behavior: Behavior) -> Behavior:
        @wraps(behavior)  # an attribute says of health's that they return before their stream ends
        def answer(requests: Iterator[Any], context: grpc.ServicerContext, *send: Any) -> Any:
            with self._place(context):
                for request in requests:
                    return behavior(request, context, *send)
            abort(context, InvalidRequestError("expected a message, found the end of the call"))

        return self._moved(answer)

    def _moved(self, behavior: Behavior) -> Behavior:
        vars(behavior)["experimental_thread_pool"] = self._pool
        return behavior

    @contextmanager
    def _place(self, context: grpc.ServicerContext) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            detail = (
                f"expected at most {self._limit} calls at once of services that are open to all"
            )
            abort(context, OverloadedError(detail, retry_after_seconds=_RETRY_AFTER_SECONDS))
        try:
            yield
        finally:
            self._places.release()


def listen(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Have a server listen, with TLS if it has credentials; return the port.

    Raises:
        NotReadyError: The port is taken.
    """
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise NotReadyError(f"cannot listen on {address}: {error}") from error


def abort(context: grpc.ServicerContext, error: GmemError) -> NoReturn:
    """End a call with an error; the client rebuilds it with :func:`error_of`."""
    problem = to_problem(error)
    problem["detail"] = problem["detail"][:_MAX_DETAIL]
    if "errors" in problem:
        problem["errors"] = problem["errors"][:_MAX_FIELD_ERRORS]
    del problem["error"]  # the OpenAI member is for HTTP
    metadata = ((PROBLEM_METADATA_KEY, json.dumps(problem).encode()),)
    context.set_trailing_metadata(metadata)
    context.abort(status_of(error).grpc, problem["detail"])


def error_of(failure: grpc.aio.AioRpcError, service: str) -> GmemError:
    """Rebuild the error behind a failed call; without our metadata, judge by the status code.

    Args:
        failure: What the call raised.
        service: What was called, for the message, e.g. ``bank service at 127.0.0.1:8101``.
    """
    metadata: Any = failure.trailing_metadata()  # typed as one pair, is a sequence of them
    problem = dict(metadata or ()).get(PROBLEM_METADATA_KEY)
    if problem is not None:
        return from_problem(json.loads(problem))
    code, detail = failure.code(), f"{service}: {failure.details() or failure.code().name}"
    match code:
        case grpc.StatusCode.UNAVAILABLE if "handshake" in detail.lower():
            return NotReadyError(
                f"{service} and this client do not trust each other ({failure.details()}); check "
                "GMEM_SECURITY__TLS_CA_FILE here and the certificate there",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        case grpc.StatusCode.UNAVAILABLE:
            return NotReadyError(
                f"{service} does not answer ({failure.details()}); it is asked again by itself",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(f"{service} did not answer in time")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in detail:
            return TooLargeError(f"{detail}; ask for fewer rows at once")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OverloadedError(detail, retry_after_seconds=_RETRY_AFTER_SECONDS)
        case grpc.StatusCode.CANCELLED:
            return CancelledError(detail)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidRequestError(detail)
        case _:
            return InternalError(f"{detail} ({code.name})")


def to_tensor(array: NDArray[Any]) -> bank_pb2.Tensor:
    """Put an array into a message: little-endian bytes, C order."""
    tensor = bank_pb2.Tensor()
    fill_tensor(tensor, array)
    return tensor


def fill_tensor(tensor: bank_pb2.Tensor, array: NDArray[Any]) -> None:
    """Put an array into an empty message that is part of another: one that is added is copied."""
    tensor.dtype = array.dtype.name
    tensor.shape.extend(array.shape)
    tensor.data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_tensor(
    tensor: bank_pb2.Tensor, name: str, dtypes: Sequence[str], ndim: int
) -> NDArray[Any]:
    """Read an array out of a message, without a copy and read-only.

    Args:
        tensor: The message.
        name: The field, for the error.
        dtypes: Accepted element types.
        ndim: Number of axes.

    Raises:
        InvalidRequestError: Type, shape and number of bytes do not fit.
    """
    shape, data = tuple(tensor.shape), tensor.data
    if tensor.dtype not in dtypes or len(shape) != ndim:
        raise InvalidRequestError(
            f"{name}: expected {' or '.join(dtypes)} of {ndim} axes, "
            f"found {tensor.dtype[:40] or 'no dtype'} of {len(shape)} axes"
        )
    dtype = _LITTLE_ENDIAN[tensor.dtype]
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        raise InvalidRequestError(
            f"{name}: expected {size} bytes for {tensor.dtype} {shape}, found {len(data)}"
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # no bytes, yet an axis longer than any array
        raise InvalidRequestError(f"{name}: expected a shape, found {shape}: {error}") from error
