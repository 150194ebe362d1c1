"""The one error tree of the product, and how each error leaves a service.

```
GmemError
├── InvalidRequestError      400  the request is malformed
├── UnauthenticatedError     401  no key, or none that is known
├── ForbiddenError           403  the key does not allow this
├── NotFoundError            404
│   ├── UnknownClassError, UnknownBankError, UnknownModelError, UnknownVersionError,
│   └── UnknownAliasError, UnknownRowError, UnknownSamplerError, UnknownJobError
├── ConflictError            409
│   ├── PublishConflictError      somebody published first
│   ├── AliasConflictError        somebody moved the alias first
│   ├── UnsupportedVersionError   a newer release wrote the version
│   ├── EncoderMismatchError      bank and model were made with different encoders
│   ├── ConditionMismatchError    the model does not take what the request gives it
│   └── InFlightError             the request is being answered already
├── TooLargeError            413
├── OutOfRangeError          422  well-formed, but a value is not acceptable
│   └── KeyReusedError            the idempotency key was used for another request
├── CancelledError           499  the caller went away
├── OverloadedError          429  with ``retry_after_seconds``
├── OverQuotaError           429  with ``retry_after_seconds`` and the limit that was reached
├── NotReadyError            503  with a reason and ``retry_after_seconds``
│   └── NewerRecordError          a newer release wrote what is kept of a job or key
├── CorruptVersionError      503  bytes in the store are not the published ones
├── UntrustedVersionError    503  nobody who is trusted signed the version
├── StorageError             503  the object store does not answer
├── DeadlineExceededError    504
└── InternalError            500  a defect of ours, never the caller's fault
```

A message says what was expected, what was found and what to do. ``STATUS`` is the only place
that maps a class to HTTP and gRPC; :func:`to_problem` and :func:`from_problem` carry an error
across a process border (HTTP body, gRPC trailing metadata, Triton error message) unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc

PROBLEM_METADATA_KEY = "gmem-problem-bin"
"""gRPC trailing metadata that carries the JSON of :func:`to_problem`."""


class GmemError(Exception):
    """Base of every error the product raises on purpose.

    Args:
        detail: What was expected, what was found and what to do.
        errors: For invalid input, one ``{"field", "message"}`` per offending field.
        retry_after_seconds: When trying again makes sense, the earliest moment.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after_seconds = retry_after_seconds


class InvalidRequestError(GmemError):
    """The request cannot be understood."""

    code = "invalid_request"
    title = "The request is malformed"


class UnauthenticatedError(GmemError):
    """The request names no API key, or one that is unknown or expired."""

    code = "unauthenticated"
    title = "An API key is needed"


class ForbiddenError(GmemError):
    """The API key is good, but not for this."""

    code = "forbidden"
    title = "The API key does not allow this"


class NotFoundError(GmemError):
    """Something the request names does not exist."""

    code = "not_found"
    title = "Not found"


class UnknownClassError(NotFoundError):
    """No class of the bank has this id, name or alias."""

    code = "unknown_class"
    title = "Unknown class"


class UnknownBankError(NotFoundError):
    """The store holds no bank of this name."""

    code = "unknown_bank"
    title = "Unknown bank"


class UnknownModelError(NotFoundError):
    """The store holds no model of this name."""

    code = "unknown_model"
    title = "Unknown model"


class UnknownVersionError(NotFoundError):
    """The bank or model exists, but not in this version."""

    code = "unknown_version"
    title = "Unknown version"


class UnknownAliasError(NotFoundError):
    """The bank or model exists, but nothing has been given this alias."""

    code = "unknown_alias"
    title = "Unknown alias"


class UnknownRowError(NotFoundError):
    """The bank version has no such row, or it was tombstoned."""

    code = "unknown_row"
    title = "Unknown row"


class UnknownSamplerError(NotFoundError):
    """No sampler has this name."""

    code = "unknown_sampler"
    title = "Unknown sampler"


class UnknownJobError(NotFoundError):
    """The caller has no such job, or it was kept long enough."""

    code = "unknown_job"
    title = "Unknown job"


class ConflictError(GmemError):
    """The request does not fit the present state."""

    code = "conflict"
    title = "Conflict"


class PublishConflictError(ConflictError):
    """A version was published after the one the publisher expected to be the newest."""

    code = "publish_conflict"
    title = "Another version was published first"


class AliasConflictError(ConflictError):
    """The alias was moved after the generation the caller expected."""

    code = "alias_conflict"
    title = "The alias was moved first"


class EncoderMismatchError(ConflictError):
    """The bank's snippets come from another encoder than the one the model was trained with."""

    code = "encoder_mismatch"
    title = "Bank and model do not belong together"


class ConditionMismatchError(ConflictError):
    """The request gives a bank, rows or a class to a model that does not take it."""

    code = "condition_mismatch"
    title = "The model does not take this"


class InFlightError(ConflictError):
    """A request with the same idempotency key is being answered at this moment."""

    code = "in_flight"
    title = "The request is being answered already"


class UnsupportedVersionError(ConflictError):
    """A version was written in a format that this release does not read."""

    code = "unsupported_version"
    title = "The version needs another release"


class TooLargeError(GmemError):
    """The request body or the asked answer exceeds a limit."""

    code = "too_large"
    title = "Too large"


class OutOfRangeError(GmemError):
    """A value is of the right type but outside what is served."""

    code = "out_of_range"
    title = "A value is out of range"


class KeyReusedError(OutOfRangeError):
    """The idempotency key came with another request before."""

    code = "key_reused"
    title = "The idempotency key was used for another request"


class CancelledError(GmemError):
    """The caller went away before the answer was ready."""

    code = "cancelled"
    title = "Cancelled"


class OverloadedError(GmemError):
    """The queue is full; ``retry_after_seconds`` is computed from the backlog."""

    code = "overloaded"
    title = "The queue is full"


@dataclass(frozen=True, slots=True)
class ReachedLimit:
    """A limit that a caller has reached: ``amount`` per ``window_seconds``, ``remaining`` left."""

    name: str
    amount: int
    window_seconds: int
    remaining: int


class OverQuotaError(GmemError):
    """The caller has used up what it may ask for; ``retry_after_seconds`` says for how long.

    Args:
        detail: As in `GmemError`, like all further keyword arguments.
        limit: Which one; not known where the error was rebuilt from a problem.
    """

    code = "over_quota"
    title = "The quota is used up"

    def __init__(self, detail: str, *, limit: ReachedLimit | None = None, **more: Any) -> None:
        super().__init__(detail, **more)
        self.limit = limit


class NotReadyError(GmemError):
    """A part of the system is starting, draining or away."""

    code = "not_ready"
    title = "Not ready"


class NewerRecordError(NotReadyError):
    """What is kept of a job or an idempotency key is in a format of a newer release."""

    code = "newer_record"
    title = "The record needs another release"


class CorruptVersionError(GmemError):
    """A file of a version differs from what was published; it is never served."""

    code = "corrupt_version"
    title = "A stored version is corrupt"


class UntrustedVersionError(GmemError):
    """No trusted key signed a version, although signatures are asked for; it is never served."""

    code = "untrusted_version"
    title = "A stored version is not signed by a trusted key"


class StorageError(GmemError):
    """The object store failed or does not answer."""

    code = "storage_failed"
    title = "The object store failed"


class DeadlineExceededError(GmemError):
    """The answer would come after the caller's deadline."""

    code = "deadline_exceeded"
    title = "Deadline exceeded"


class InternalError(GmemError):
    """A defect of ours; the log has the details under the request id."""

    code = "internal"
    title = "Internal error"


@dataclass(frozen=True, slots=True)
class Status:
    """How one error class leaves a service."""

    http: int
    grpc: grpc.StatusCode


STATUS: dict[type[GmemError], Status] = {
    InvalidRequestError: Status(400, grpc.StatusCode.INVALID_ARGUMENT),
    UnauthenticatedError: Status(401, grpc.StatusCode.UNAUTHENTICATED),
    ForbiddenError: Status(403, grpc.StatusCode.PERMISSION_DENIED),
    NotFoundError: Status(404, grpc.StatusCode.NOT_FOUND),
    ConflictError: Status(409, grpc.StatusCode.ABORTED),
    EncoderMismatchError: Status(409, grpc.StatusCode.FAILED_PRECONDITION),
    ConditionMismatchError: Status(409, grpc.StatusCode.FAILED_PRECONDITION),
    TooLargeError: Status(413, grpc.StatusCode.INVALID_ARGUMENT),
    OutOfRangeError: Status(422, grpc.StatusCode.OUT_OF_RANGE),
    OverloadedError: Status(429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    OverQuotaError: Status(429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    CancelledError: Status(499, grpc.StatusCode.CANCELLED),
    InternalError: Status(500, grpc.StatusCode.INTERNAL),
    NotReadyError: Status(503, grpc.StatusCode.UNAVAILABLE),
    CorruptVersionError: Status(503, grpc.StatusCode.DATA_LOSS),
    UntrustedVersionError: Status(503, grpc.StatusCode.FAILED_PRECONDITION),
    StorageError: Status(503, grpc.StatusCode.UNAVAILABLE),
    DeadlineExceededError: Status(504, grpc.StatusCode.DEADLINE_EXCEEDED),
    GmemError: Status(500, grpc.StatusCode.UNKNOWN),
}
"""Error class to status; a class without a row takes its nearest ancestor's."""


def status_of(error: GmemError) -> Status:
    """Return the HTTP and gRPC status of an error."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def to_problem(error: GmemError) -> dict[str, Any]:
    """Describe an error as an RFC 9457 problem with an OpenAI-shaped ``error`` member."""
    problem: dict[str, Any] = {
        "type": f"urn:gmem:error:{error.code}",
        "title": error.title,
        "status": status_of(error).http,
        "detail": error.detail,
        "code": error.code,
        "error": {"message": error.detail, "type": error.code, "param": None, "code": error.code},
    }
    if error.errors:
        problem["errors"] = error.errors
        problem["error"]["param"] = error.errors[0].get("field")
    if error.retry_after_seconds is not None:
        problem["retry_after_seconds"] = error.retry_after_seconds
    return problem


def to_headers(error: GmemError) -> dict[str, str]:
    """Return the HTTP headers that go with :func:`to_problem`."""
    headers = {}
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, OverQuotaError) and error.limit is not None:
        limit = error.limit  # draft-ietf-httpapi-ratelimit-headers
        headers["RateLimit-Policy"] = f'"{limit.name}";q={limit.amount};w={limit.window_seconds}'
        wait = headers.get("Retry-After", limit.window_seconds)
        headers["RateLimit"] = f'"{limit.name}";r={limit.remaining};t={wait}'
    return headers


def from_problem(problem: dict[str, Any]) -> GmemError:
    """Rebuild the error that :func:`to_problem` described; an unknown code is a `GmemError`."""
    error_class = _BY_CODE.get(str(problem.get("code")), GmemError)
    return error_class(
        str(problem.get("detail", "no detail given")),
        errors=problem.get("errors"),
        retry_after_seconds=problem.get("retry_after_seconds"),
    )


def copy_of(error: GmemError) -> GmemError:
    """Copy an error that is raised many times, so that tracebacks do not pile up on it."""
    return from_problem(to_problem(error))


def error_classes() -> list[type[GmemError]]:
    """Return the whole tree, root first."""
    found: list[type[GmemError]] = [GmemError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


_BY_CODE = {cls.code: cls for cls in error_classes()}
