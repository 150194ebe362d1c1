"""Who may call: one ASGI middleware and one gRPC interceptor over the same keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import grpc
from structlog.contextvars import bind_contextvars

from gmem_shared import tracing
from gmem_shared.errors import GmemError
from gmem_shared.keys import ANONYMOUS, Keyring, Principal, Scope, key_of

PRINCIPAL = "gmem.principal"
"""Member of the ASGI scope: the `Principal` who asks."""

# ASGI, as its specification has it; this package imports no web framework.
AsgiScope = MutableMapping[str, Any]
AsgiApp = Callable[[AsgiScope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]


class Guard:
    """ASGI middleware: lets pass who may ask, and names them in the scope and in log lines.

    Args:
        app: What is guarded.
        keyring: The keys.
        needs: From method and path to the scope needed; `None` for what is open to all.
        refuse: Makes the answer out of an error.
    """

    def __init__(
        self,
        app: AsgiApp,
        keyring: Keyring,
        needs: Callable[[str, str], Scope | None],
        refuse: Callable[[GmemError], AsgiApp],
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._needs = needs
        self._refuse = refuse

    async def __call__(self, scope: AsgiScope, receive: Any, send: Any) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._identify(scope)
        except GmemError as error:
            await self._refuse(error)(scope, receive, send)
            return
        with tracing.logged_with(caller):
            await self._app(scope, receive, send)

    def _identify(self, scope: AsgiScope) -> dict[str, str]:
        """Return what log lines say of who asks."""
        if self._keyring.open:
            scope[PRINCIPAL] = ANONYMOUS
            return {}
        needed = self._needs(scope["method"], scope["path"])
        if needed is None:
            return {}
        principal = scope[PRINCIPAL] = self._keyring.principal(key_of(scope["headers"]))
        principal.require(needed)
        return {"caller": principal.id}


class GrpcGuard(grpc.ServerInterceptor):  # type: ignore[type-arg] # it takes none when it runs
    """gRPC interceptor: lets pass who may call, and names them in the log lines of the call.

    Args:
        keyring: The keys.
        needs: From the full method name to the scope needed; `None` for what is open to all.
        refuse: Ends a call of a method, given by its full name, with an error.
    """

    def __init__(
        self,
        keyring: Keyring,
        needs: Callable[[str], Scope | None],
        refuse: Callable[[str, GmemError, grpc.ServicerContext], None],
    ) -> None:
        self._keyring = keyring
        self._needs = needs
        self._refuse = refuse

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, or one that refuses it."""
        needed = self._needs(handler_call_details.method)
        if needed is not None:
            try:
                principal = self._identify(handler_call_details)
                bind_contextvars(caller=principal.id)  # gRPC has a context for each call
                principal.require(needed)
            except GmemError as error:
                return self._refusal(handler_call_details.method, error)
        return continuation(handler_call_details)

    def _identify(self, call: grpc.HandlerCallDetails) -> Principal:
        metadata: Mapping[str, Any] = dict(call.invocation_metadata)
        return self._keyring.principal(
            key_of((name.encode(), _bytes(value)) for name, value in metadata.items())
        )

    def _refusal(self, method: str, error: GmemError) -> grpc.RpcMethodHandler[Any, Any]:
        def refuse(_: Any, context: grpc.ServicerContext) -> None:
            self._refuse(method, error, context)

        # Whatever the method takes: gRPC would wait for a single message before it refuses.
        return grpc.stream_unary_rpc_method_handler(refuse)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
