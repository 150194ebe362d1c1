"""Which scope a call of the bank needs, on both doors."""

from __future__ import annotations

from grpc import ServicerContext
from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.types import ASGIApp

from gmem_bank import problems
from gmem_bank.grpc_server import answering
from gmem_shared import telemetry
from gmem_shared.errors import GmemError
from gmem_shared.guard import GrpcGuard, Guard
from gmem_shared.keys import Keyring, Scope

_OPEN = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"})
_OPEN_SERVICES = ("/grpc.health.", "/grpc.reflection.")
_READS = ("draw", "gather", "search")
_READ_METHODS = frozenset(
    {
        "Draw", "Gather", "Search", "Describe", "ListBanks", "ListVersions",
        "StreamDraw", "StreamGather", "Export",
    }
)  # fmt: skip

_SHOWN = 80
"""Characters of a method's name that are logged: who needs no key may send any."""


def scope_of_request(method: str, path: str) -> Scope | None:
    """Return the scope that an HTTP request needs; what is not known to read is ``admin``."""
    if path in _OPEN:
        return None
    if method in ("GET", "HEAD"):
        return "read"
    return "read" if method == "POST" and path.rpartition("/")[2] in _READS else "admin"


def scope_of_method(method: str) -> Scope | None:
    """Return the scope that a gRPC method needs, given its full name."""
    if method.startswith(_OPEN_SERVICES):
        return None
    return "read" if method.rpartition("/")[2] in _READ_METHODS else "admin"


class Access:
    """Who may ask the bank.

    Args:
        keyring: The keys.
        registry: Where refusals are counted.
    """

    def __init__(self, keyring: Keyring, registry: CollectorRegistry) -> None:
        self._keyring = keyring
        self._refused = telemetry.BANK_REFUSED.counter(registry)

    def http(self, app: ASGIApp) -> Guard:
        """Guard an application."""
        return Guard(app, self._keyring, scope_of_request, self._answer)

    def grpc(self) -> GrpcGuard | None:
        """Return the guard of a gRPC server; `None` where no keys are asked for."""
        if self._keyring.open:
            return None
        return GrpcGuard(self._keyring, scope_of_method, self._refuse)

    def _count(self, error: GmemError) -> None:
        self._refused.labels(error.code).inc()

    def _refuse(self, method: str, error: GmemError, context: ServicerContext) -> None:
        self._count(error)
        with answering(method.rpartition("/")[2][:_SHOWN], context):
            raise error

    def _answer(self, error: GmemError) -> Response:
        self._count(error)
        return problems.respond(error)
