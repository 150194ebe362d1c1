"""Who may call: one ASGI middleware and one gRPC interceptor over the same keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import grpc

from gmem_shared import rpc
from gmem_shared.errors import GmemError
from gmem_shared.keys import Keyring, Principal, Scope, key_of

PRINCIPAL = "gmem.principal"
"""Member of the ASGI scope: the `Principal` who asks."""

# ASGI, as its specification has it; this package imports no web framework.
AsgiScope = MutableMapping[str, Any]
AsgiApp = Callable[[AsgiScope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]


class Guard:
    """ASGI middleware: lets pass who may ask, and names them in the scope.

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
        if scope["type"] == "http":
            try:
                self._identify(scope)
            except GmemError as error:
                await self._refuse(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _identify(self, scope: AsgiScope) -> None:
        if self._keyring.open:
            scope[PRINCIPAL] = self._keyring.principal(None)
            return
        needed = self._needs(scope["method"], scope["path"])
        if needed is not None:
            principal = scope[PRINCIPAL] = self._keyring.principal(key_of(scope["headers"]))
            principal.require(needed)


class GrpcGuard(grpc.ServerInterceptor):  # type: ignore[type-arg] # it takes none when it runs
    """gRPC interceptor: lets pass who may call.

    Args:
        keyring: The keys.
        needs: From the full method name to the scope needed; `None` for what is open to all.
        refused: Called with each refusal.
    """

    def __init__(
        self,
        keyring: Keyring,
        needs: Callable[[str], Scope | None],
        refused: Callable[[GmemError], None],
    ) -> None:
        self._keyring = keyring
        self._needs = needs
        self._refused = refused

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, or one that refuses it."""
        needed = self._needs(handler_call_details.method)
        if needed is not None:
            try:
                self._identify(handler_call_details).require(needed)
            except GmemError as error:
                self._refused(error)
                return _refusal(error)
        return continuation(handler_call_details)

    def _identify(self, call: grpc.HandlerCallDetails) -> Principal:
        metadata: Mapping[str, Any] = dict(call.invocation_metadata)
        return self._keyring.principal(
            key_of((name.encode(), _bytes(value)) for name, value in metadata.items())
        )


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _refusal(error: GmemError) -> grpc.RpcMethodHandler[Any, Any]:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        rpc.abort(context, error)

    # Whatever the method takes: gRPC would wait for a single message before it refuses.
    return grpc.stream_unary_rpc_method_handler(refuse)
