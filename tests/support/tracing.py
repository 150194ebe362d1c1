"""Spans kept in memory, and an OpenTelemetry receiver that real processes can send theirs to."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gmem_shared import tracing


@contextlib.contextmanager
def spans_in_memory() -> Iterator[InMemorySpanExporter]:
    """Trace this process into memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    try:
        yield exporter
    finally:
        tracing.close()


@dataclass(frozen=True)
class Seen:
    """One span as it came over the wire."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    seconds: tuple[float, float]


@dataclass
class Receiver:
    """What processes sent."""

    url: str
    spans: list[Seen] = field(default_factory=list)

    def of_trace(self, trace: str) -> dict[str, Seen]:
        """The spans of one trace by name, each of which comes once.

        Without those of what a front end looks up every few seconds, in the trace of whom it meets.
        """
        lookups = {"bank.Describe", "bank.ListBanks"}
        spans = [span for span in list(self.spans) if span.name not in lookups]
        found = [span for span in spans if span.trace == trace]
        names = [span.name for span in found]
        assert len(names) == len(set(names)), names
        return {span.name: span for span in found}


def _read(body: bytes) -> Iterator[Seen]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        facts = {fact.key: fact.value.string_value for fact in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    facts["service.name"],
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    (span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9),
                )


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver of OTLP over HTTP on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.spans.extend(_read(gzip.decompress(body) if self._zipped else body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        @property
        def _zipped(self) -> bool:
            return self.headers.get("Content-Encoding") == "gzip"

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
