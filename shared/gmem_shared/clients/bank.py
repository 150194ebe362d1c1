"""The bank service as a bank source, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from gmem_shared import rpc, tls, tracing
from gmem_shared.bank_messages import (
    info_from_message,
    join,
    neighbours_from_message,
    snippets_from_message,
    spec_to_message,
    split,
)
from gmem_shared.errors import GmemError, InvalidRequestError, NotReadyError
from gmem_shared.proto.bank.v1 import bank_pb2, bank_pb2_grpc
from gmem_shared.settings import Settings
from gmem_shared.types import BankInfo, DrawSpec, Neighbours, Snippets

_SERVICE = "gmem.bank.v1.Bank"
_READS = ("Draw", "Gather", "StreamDraw", "StreamGather", "Search", "Describe", "ListBanks")
STREAM_ROWS = 1024
"""Beyond, the rows come as a stream: a message of several MiB stops the event loop while it is
read, and one above the limit is refused."""
_CHECK_SECONDS = 2.0

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class BankClient:
    """Reads from a bank service.

    Every call has a deadline and, all being reads, is tried again within it while the service is
    unavailable. Errors of the service arrive as the classes it raised; a service that is away is a
    `NotReadyError`, and the next call after its return succeeds.

    Args:
        address: ``host:port`` of the gRPC server.
        timeout_seconds: Deadline of one call, retries included.
        credentials: How the service is known; by default it speaks no TLS.
        api_key: Sent with each call.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
    ) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._credentials = credentials
        self._metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
        self._channel: grpc.aio.Channel | None = None
        self._started_stub: bank_pb2_grpc.BankAsyncStub | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> BankClient:
        """Build the client; connects lazily."""
        key_file = settings.bank.api_key_file
        return cls(
            settings.bank.address,
            timeout_seconds=settings.bank.timeout_seconds,
            credentials=tls.channel_credentials(settings.security),
            api_key=None if key_file is None else key_file.read_text().strip(),
        )

    async def start(self) -> None:
        """Open the channel; the service need not be there yet."""
        retried = [(_SERVICE, method) for method in _READS]
        self._channel = rpc.channel(self._address, retried, self._credentials)
        self._started_stub = bank_pb2_grpc.BankStub(self._channel)

    async def close(self) -> None:
        """Close the channel, cancelling calls in flight."""
        if self._channel is not None:
            await self._channel.close(grace=None)
            self._channel = self._started_stub = None

    async def check(self) -> None:
        """Return when the service answers with at least one bank.

        Raises:
            NotReadyError: The service is away, starting, or has nothing to serve.
        """
        timeout = min(_CHECK_SECONDS, self._timeout_seconds)
        try:
            banks = await self._call(
                self._stub.ListBanks, bank_pb2.ListBanksRequest(), timeout=timeout
            )
        except GmemError as error:
            raise NotReadyError(
                error.detail, retry_after_seconds=error.retry_after_seconds or 1.0
            ) from error
        if not banks.banks:
            raise NotReadyError(f"{self._name} serves no bank yet", retry_after_seconds=1.0)

    async def banks(self) -> list[BankInfo]:
        """Describe the default version of every bank in the store."""
        answer = await self._call(self._stub.ListBanks, bank_pb2.ListBanksRequest())
        return [info_from_message(message) for message in answer.banks]

    async def describe(self, bank: str) -> BankInfo:
        """Describe one bank version."""
        request = bank_pb2.DescribeRequest(bank=bank)
        return info_from_message(await self._call(self._stub.Describe, request))

    async def draw(self, bank: str, specs: Sequence[DrawSpec]) -> list[Snippets]:
        """Draw rows for several requests at once, all from one and the same version."""
        request = bank_pb2.DrawRequest(bank=bank, specs=[spec_to_message(spec) for spec in specs])
        counts = [spec.count for spec in specs]
        if sum(counts) > STREAM_ROWS:
            return split(await self._stream(self._stub.StreamDraw, request), counts)
        answer = await self._call(self._stub.Draw, request)
        return split(snippets_from_message(answer.snippets), counts)

    async def gather(self, bank: str, rows: Sequence[int]) -> Snippets:
        """Return the named rows in the order asked for."""
        try:
            request = bank_pb2.GatherRequest(bank=bank, rows=rows)
        except ValueError as error:
            raise InvalidRequestError(f"rows: expected 64-bit integers: {error}") from error
        if len(rows) > STREAM_ROWS:
            return await self._stream(self._stub.StreamGather, request)
        answer = await self._call(self._stub.Gather, request)
        return snippets_from_message(answer.snippets)

    async def search(
        self,
        bank: str,
        queries: NDArray[np.float32],
        count: int,
        labels: Sequence[int] | None = None,
    ) -> Neighbours:
        """Return the ``count`` rows most similar to each query, float32 ``(q, d)``."""
        request = bank_pb2.SearchRequest(
            bank=bank, queries=rpc.to_tensor(queries), count=count, labels=labels
        )
        return neighbours_from_message(await self._call(self._stub.Search, request))

    @property
    def _name(self) -> str:
        return f"bank service at {self._address}"

    @property
    def _stub(self) -> bank_pb2_grpc.BankAsyncStub:
        if self._started_stub is None:
            raise NotReadyError(f"client of the {self._name} is not started")
        return self._started_stub

    def _along(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call: who calls, and for which request."""
        return (*self._metadata, *tracing.outgoing().items())

    async def _call(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Request,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (gRPC's own deadline, sent to the server)
    ) -> Response:
        try:
            return await method(
                request, timeout=timeout or self._timeout_seconds, metadata=self._along()
            )
        except grpc.aio.AioRpcError as failure:
            raise rpc.error_of(failure, self._name) from failure

    async def _stream(
        self, method: Callable[..., AsyncIterable[bank_pb2.Snippets]], request: Request
    ) -> Snippets:
        try:
            call = method(request, timeout=self._timeout_seconds, metadata=self._along())
            parts = [snippets_from_message(message) async for message in call]
        except grpc.aio.AioRpcError as failure:
            raise rpc.error_of(failure, self._name) from failure
        return await asyncio.to_thread(join, parts)
