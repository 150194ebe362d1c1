"""What goes with a request from process to process: its id, for the logs, and its trace.

Both travel as text beside the request: in HTTP's headers, in gRPC's metadata, among the parameters
of a request to Triton. Traces are OpenTelemetry's, and its own variables (``OTEL_*``, read by its
SDK) say where they go. Unless these ask for traces, nothing of it is imported, and what is below
costs a comparison.

A trace begins at the front end. Bank and engine continue what reaches them and begin none: nobody
wants a trace of each probe.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from structlog.contextvars import bind_contextvars, get_contextvars, reset_contextvars

from gmem_shared.errors import NotReadyError
from gmem_shared.keys import PREFIX
from gmem_shared.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"

Carrier = Mapping[str, str]
"""What came along with a request: names in lower case, as in HTTP/2."""

P = ParamSpec("P")
R = TypeVar("R")
Attribute = str | int | float | bool

_ID = rf"(?!{PREFIX})[A-Za-z0-9._-]{{1,64}}"
"""Never an API key: ids are logged and sent back."""
_ONE_ID, _IDS = re.compile(_ID), re.compile(rf"{_ID}(,{_ID})*")
_PARTS = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_NOTHING = nullcontext()
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def configure(service: str) -> None:
    """Trace this process if ``OTEL_*`` variables ask for it; called by entry points.

    Args:
        service: Name of the process in traces, unless ``OTEL_SERVICE_NAME`` gives one.

    Raises:
        NotReadyError: Traces are asked for, and the SDK is not installed.
    """
    settings = TracingSettings()
    if settings.wanted:
        use(_exporting(settings.service_name or service, settings.exporter_otlp_timeout))


def use(provider: TracerProvider) -> None:
    """Send spans to a provider from now on."""
    global _provider, _tracer
    _provider, _tracer = provider, provider.get_tracer("gmem")


def close() -> None:
    """Send what is left, and trace no more."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


def request_id() -> str | None:
    """Return the id of the request that is being answered."""
    found: str | None = get_contextvars().get("request_id")
    return found


def outgoing() -> dict[str, str]:
    """Return what has to go along with a request that is made for the present one."""
    carrier = {}
    if (present := request_id()) is not None:
        carrier[REQUEST_ID] = present
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier


def is_id(text: str) -> bool:
    """Return whether a client may give its request this id."""
    return _ONE_ID.fullmatch(text) is not None


def identity(carrier: Carrier) -> dict[str, str]:
    """Return what log lines about a request carry: its id, and that of its trace.

    What is made for several requests has the ids of all, with commas between.
    """
    known = {}
    if REQUEST_ID in carrier and _IDS.fullmatch(carrier[REQUEST_ID]):
        known["request_id"] = carrier[REQUEST_ID]
    if TRACEPARENT in carrier and (parts := _PARTS.fullmatch(carrier[TRACEPARENT])):
        known["trace_id"] = parts["trace"]
    return known


@contextmanager
def serving(name: str, carrier: Carrier, *, begins: bool = False) -> Iterator[Span | None]:
    """Run a block as the answer to a request; its log lines carry the request's id and trace.

    Args:
        name: Of the span.
        carrier: What came along.
        begins: Whether a trace begins here if none came along.

    Yields:
        The span, for `answered`; ``None`` where there is no trace.
    """
    known = identity(carrier)
    if _tracer is None or not (begins or TRACEPARENT in carrier):
        with logged_with(known):
            yield None
        return
    from opentelemetry.trace import SpanKind, format_trace_id

    with _tracer.start_as_current_span(name, _context(carrier), SpanKind.SERVER) as span:
        known["trace_id"] = format_trace_id(span.get_span_context().trace_id)
        with logged_with(known):
            yield span


def answered(span: Span, name: str, status: int) -> None:
    """Say of a span of HTTP what is known at its end: the route, and how it was answered."""
    from opentelemetry.trace import StatusCode

    span.update_name(name)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def span(name: str, *, client: bool = False) -> AbstractContextManager[object]:
    """Run a block as a span of the present trace.

    Args:
        name: Of the span.
        client: Whether the block asks another service.
    """
    if _tracer is None:
        return _NOTHING
    from opentelemetry.trace import SpanKind

    kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
    return _tracer.start_as_current_span(name, kind=kind)


def traced(name: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Decorate a coroutine function whose calls are spans of the present trace."""

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name):
                return await function(*args, **kwargs)

        return call

    return decorate


def active() -> bool:
    """Whether anything is traced: ask before facts are gathered for `describe`."""
    return _tracer is not None


def describe(**attributes: Attribute) -> None:
    """Add facts to the present span, as ``gmem.<name>``; only where tracing is `active`."""
    from opentelemetry.trace import get_current_span

    get_current_span().set_attributes({f"gmem.{name}": v for name, v in attributes.items()})


def record(stages: Mapping[str, float], ended: float, carrier: Carrier | None = None) -> None:
    """Add spans of what was measured elsewhere: stages that followed each other.

    Args:
        stages: Their seconds, in order.
        ended: When the last one was over, in seconds since 1970.
        carrier: What came along with the request; by default the spans are the present one's.
    """
    if _tracer is None or (carrier is not None and TRACEPARENT not in carrier):
        return
    context = None if carrier is None else _context(carrier)
    begin = ended - sum(stages.values())
    for name, seconds in stages.items():
        measured = _tracer.start_span(name, context, start_time=_nanoseconds(begin))
        begin += seconds
        measured.end(_nanoseconds(begin))


def _exporting(service: str, timeout_seconds: float) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise NotReadyError(
            "expected the OpenTelemetry SDK, since OTEL_* variables ask for traces, found none; "
            "run pip install 'gmem-serving[tracing]' or set OTEL_TRACES_EXPORTER=none"
        ) from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout_seconds)))
    return provider


class logged_with:  # noqa: N801 (a context manager)
    """Have log lines of a block carry fields: structlog's own, in a third of the time."""

    __slots__ = ("_fields", "_tokens")

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._tokens = bind_contextvars(**self._fields)

    def __exit__(self, *_: object) -> None:
        reset_contextvars(**self._tokens)


def _context(carrier: Carrier) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(carrier)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
