"""The gRPC door: translate, call the service, translate.

Handlers are synchronous and run on threads. On one machine `grpc.aio` served about half as many
small draws per second, and a message of several MiB stops its event loop while it is encoded.

What a client without a key can do, or one that never sends its message, costs no draw its thread:
see `Crew` and `rpc.Few`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gmem_bank.crew import Crew
from gmem_bank.index import pin_threads
from gmem_bank.service import BankService
from gmem_shared import rpc, tracing
from gmem_shared.bank_messages import (
    fill_snippets,
    info_to_message,
    neighbours_to_message,
    queries_from_message,
    snippets_to_message,
    spec_from_message,
    version_to_message,
    with_dtype,
)
from gmem_shared.errors import CancelledError, GmemError, OverloadedError
from gmem_shared.guard import GrpcGuard
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.types import Snippets, VersionRef

_log = structlog.get_logger(__name__)

SERVICE_NAME = bank_pb2.DESCRIPTOR.services_by_name["Bank"].full_name

_ROUTINE = {"ListBanks", "Describe"}
"""Asked every few seconds by each front end; logged only on request, or when it fails."""

_CALLS_PER_WORKER = 256
_THREADS_PER_WORKER = 64
_OPEN_CALLS = 16
"""Calls of health and reflection at once: they need no key."""
_STREAM_RETRY_SECONDS = 5.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class BankServicer(bank_pb2_grpc.BankServicer):
    """`gmem.bank.v1.Bank` over a service.

    Args:
        service: Answers the requests.
        crew: Whose threads call the methods.
        workers: Calls that are worked on at once; at most half of them are streams, which take as
            long as their readers.
    """

    def __init__(self, service: BankService, crew: Crew, workers: int) -> None:
        self._service = service
        self._crew = crew
        self._turns = threading.BoundedSemaphore(workers)
        self._streams = threading.BoundedSemaphore(max(1, workers // 2))

    def Draw(  # noqa: N802
        self, request: bank_pb2.DrawRequest, context: grpc.ServicerContext
    ) -> bank_pb2.DrawResponse:
        """Draw rows for one or several requests, all from one version."""
        with self._answering("Draw", context):
            specs = [spec_from_message(spec) for spec in request.specs]
            snippets, counts = self._service.draw(request.bank, specs)
            response = bank_pb2.DrawResponse(counts=counts)
            fill_snippets(response.snippets, with_dtype(snippets, request.dtype))
            return response

    def Gather(  # noqa: N802
        self, request: bank_pb2.GatherRequest, context: grpc.ServicerContext
    ) -> bank_pb2.GatherResponse:
        """Return the named rows in the order asked for."""
        with self._answering("Gather", context):
            snippets = self._service.gather(request.bank, request.rows)
            response = bank_pb2.GatherResponse()
            fill_snippets(response.snippets, with_dtype(snippets, request.dtype))
            return response

    def Search(  # noqa: N802
        self, request: bank_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> bank_pb2.SearchResponse:
        """Return the rows most similar to each query."""
        with self._answering("Search", context):
            queries = queries_from_message(request.queries)
            return neighbours_to_message(
                self._service.search(request.bank, queries, request.count, request.labels)
            )

    def Describe(  # noqa: N802
        self, request: bank_pb2.DescribeRequest, context: grpc.ServicerContext
    ) -> bank_pb2.BankInfo:
        """Describe one bank version."""
        with self._answering("Describe", context):
            return info_to_message(self._service.describe(request.bank))

    def ListBanks(  # noqa: N802
        self, request: bank_pb2.ListBanksRequest, context: grpc.ServicerContext
    ) -> bank_pb2.ListBanksResponse:
        """Describe the default version of every bank."""
        with self._answering("ListBanks", context):
            return bank_pb2.ListBanksResponse(
                banks=[info_to_message(info) for info in self._service.banks()]
            )

    def ListVersions(  # noqa: N802
        self, request: bank_pb2.ListVersionsRequest, context: grpc.ServicerContext
    ) -> bank_pb2.ListVersionsResponse:
        """List the versions of a bank, oldest first."""
        with self._answering("ListVersions", context):
            return bank_pb2.ListVersionsResponse(
                versions=[
                    bank_pb2.VersionRecord(
                        version=version_to_message(published.version.ref),
                        message=published.version.message,
                        published_at=published.version.published_at.isoformat(),
                        aliases=published.aliases,
                    )
                    for published in self._service.versions(request.name)
                ]
            )

    def SetAlias(  # noqa: N802
        self, request: bank_pb2.SetAliasRequest, context: grpc.ServicerContext
    ) -> bank_pb2.SetAliasResponse:
        """Point an alias to a version."""
        with self._answering("SetAlias", context):
            record = self._service.set_alias(
                request.name, request.alias, request.selector, request.reason
            )
            version = VersionRef(request.name, record.seq, record.digest)
            return bank_pb2.SetAliasResponse(
                version=version_to_message(version), generation=record.generation
            )

    def StreamDraw(  # noqa: N802
        self, request: bank_pb2.DrawRequest, context: grpc.ServicerContext
    ) -> Iterator[bank_pb2.Snippets]:
        """Draw rows, in parts."""
        with self._answering("StreamDraw", context):
            specs = [spec_from_message(spec) for spec in request.specs]
            yield from self._stream(self._service.stream_draw(request.bank, specs), request.dtype)

    def StreamGather(  # noqa: N802
        self, request: bank_pb2.GatherRequest, context: grpc.ServicerContext
    ) -> Iterator[bank_pb2.Snippets]:
        """Return the named rows, in parts."""
        with self._answering("StreamGather", context):
            parts = self._service.stream_gather(request.bank, request.rows)
            yield from self._stream(parts, request.dtype)

    def Export(  # noqa: N802
        self, request: bank_pb2.ExportRequest, context: grpc.ServicerContext
    ) -> Iterator[bank_pb2.Snippets]:
        """Stream all rows of a version in row order."""
        with self._answering("Export", context):
            yield from self._stream(self._service.export(request.bank), request.dtype)

    def _stream(self, parts: Iterator[Snippets], dtype: str) -> Iterator[bank_pb2.Snippets]:
        if not self._streams.acquire(blocking=False):
            raise OverloadedError(
                "as many streams as are allowed are running; ask again when one has ended",
                retry_after_seconds=_STREAM_RETRY_SECONDS,
            )
        try:
            for part in parts:
                yield snippets_to_message(with_dtype(part, dtype))
        finally:
            self._streams.release()

    @contextmanager
    def _answering(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Run a handler in its turn, unless its caller has left before that."""
        self._crew.begin()
        with self._turns, answering(method, context):
            if not context.is_active():
                raise CancelledError("the caller left before its turn came")
            yield


class GrpcServer:
    """The bank, health and reflection services on one port.

    Args:
        service: Answers the requests.
        workers: Calls that are worked on at once; decides how many may wait.
        host: Address to listen on.
        port: Port to listen on, 0 for any.
        guard: Who may call; by default everybody.
        credentials: What is shown to clients; by default there is no TLS.
    """

    def __init__(
        self,
        service: BankService,
        workers: int,
        host: str,
        port: int,
        *,
        guard: GrpcGuard | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._crew = Crew(workers, workers * _THREADS_PER_WORKER, pin_threads)
        open_to_all = (health.SERVICE_NAME, reflection.SERVICE_NAME)
        few = rpc.Few(open_to_all, _OPEN_CALLS)
        self._server = rpc.server(
            self._crew,
            max_concurrent=workers * _CALLS_PER_WORKER,
            interceptors=(few,) if guard is None else (guard, few),
        )
        self._credentials = credentials
        servicer = BankServicer(service, self._crew, workers)
        bank_pb2_grpc.add_BankServicer_to_server(servicer, self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, *open_to_all), self._server)
        self.set_serving(False)
        self._address = f"{host}:{port}"
        self.port = 0

    def start(self) -> None:
        """Listen.

        Raises:
            NotReadyError: The port is taken.
        """
        self.port = rpc.listen(self._server, self._address, self._credentials)
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """Answer health checks."""
        for name in ("", SERVICE_NAME):
            self._health.set(name, _SERVING if serving else _NOT_SERVING)

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, and wait for those in flight, at most so long."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait()
        self._crew.shutdown()


@contextmanager
def answering(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Run a block as the answer to a call: its errors become statuses, its end is logged, once."""
    begin, code = time.perf_counter(), "ok"
    with tracing.serving(f"bank.{method}", _carrier(context)):
        try:
            yield
        except GmemError as error:
            code = error.code
            rpc.abort(context, error)
        except Exception:
            code = "internal"
            _log.exception("bank.request.failed", method=method)
            raise
        finally:
            seconds = round(time.perf_counter() - begin, 4)
            level = logging.DEBUG if method in _ROUTINE and code == "ok" else logging.INFO
            _log.log(level, "bank.request.finished", method=method, code=code, seconds=seconds)


def _carrier(context: grpc.ServicerContext) -> dict[str, str]:
    return {key: str(value) for key, value in context.invocation_metadata()}
