"""One gRPC stream to Triton that carries every request in flight.

`tritonclient.grpc.aio` drops the request id of a failed response and cannot ask for the final one,
so this works on the messages that package defines.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from gmem_shared.errors import GmemError, NotReadyError, from_problem

RETRY_AFTER_SECONDS = 1.0

LINGER_SECONDS = 1.0
"""How long an idle stream stays open; tritonserver's exit waits for it."""

MAX_UNSENT = 64
"""Requests that may wait to be written; further ones wait for Triton to read."""


class TritonStream:
    """One ``ModelStreamInfer`` call: opened for the first request, closed soon after the last.

    It is not left open idle for long: tritonserver does not exit while a stream that was used is
    open. Nor is it opened for each request: that costs as much as the request. When it breaks,
    every request in flight fails with `NotReadyError`, and so it does when nothing was heard for
    twice ``heartbeat_seconds``, although a sign of life was asked for.
    """

    def __init__(
        self,
        stub: Any,
        heartbeat: ModelInferRequest,
        heartbeat_seconds: float,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self.accepting = True
        self._heartbeat = heartbeat
        self._heartbeat_seconds = heartbeat_seconds
        self._ids = itertools.count(1)
        self._linger_seconds = linger_seconds
        self._lingering: asyncio.TimerHandle | None = None
        self._outgoing: asyncio.Queue[ModelInferRequest | None] = asyncio.Queue()
        self._unsent = asyncio.Semaphore(MAX_UNSENT)
        self._inboxes: dict[str, asyncio.Queue[Any]] = {}
        self._heard = True
        self._end = "Triton closed the stream"
        self._call = stub.ModelStreamInfer(self._requests())
        self._watcher = asyncio.create_task(self._watch())
        self.reader = asyncio.create_task(self._read())

    async def exchange(
        self, request: ModelInferRequest, seconds: float | None, cancel: ModelInferRequest | None
    ) -> AsyncGenerator[Any]:
        """Send a request and yield each ``ModelInferResponse`` that has content.

        Args:
            request: Gets an id of its own.
            seconds: How long to wait for the last response; ``None`` waits for ever.
            cancel: Sent when the iterator is closed before the end.

        Raises:
            GmemError: The error Triton answered with.
            NotReadyError: The stream broke, or Triton does not serve the model.
            TimeoutError: ``seconds`` are over.
        """
        end = None if seconds is None else asyncio.get_running_loop().time() + seconds
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        request.id = str(next(self._ids))
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        self._inboxes[request.id] = inbox
        self._stay()
        sent = ended = False
        try:
            async with asyncio.timeout_at(end):
                await self._unsent.acquire()
            self._outgoing.put_nowait(request)
            sent = True
            while not ended:
                async with asyncio.timeout_at(end):
                    answer = await inbox.get()
                ended = isinstance(answer, GmemError) or _is_final(answer)
                if isinstance(answer, GmemError):
                    raise answer
                if answer.outputs:
                    yield answer
        finally:
            if sent and not ended and cancel is not None:
                self._outgoing.put_nowait(cancel)
            self._forget(request.id)

    def retire(self) -> None:
        """Take nothing more; close when the last answer has come, or now."""
        self.accepting = False
        self._linger_seconds = 0.0
        if not self._inboxes:
            self._close()

    def _forget(self, request_id: str) -> None:
        del self._inboxes[request_id]
        if self._inboxes:
            return
        if self.accepting and self._linger_seconds:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(self._linger_seconds, self._close)
        else:
            self._close()

    def _stay(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _close(self) -> None:
        self._stay()
        self.accepting = False
        self._outgoing.put_nowait(None)

    async def _requests(self) -> AsyncIterator[ModelInferRequest]:
        while (request := await self._outgoing.get()) is not None:
            yield request  # comes back when it is written
            if request.id:  # neither a cancellation nor a heartbeat
                self._unsent.release()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._deliver(message)
        except grpc.aio.AioRpcError as error:
            self._end = f"{error.code().name}, {error.details()}"
        finally:
            self._close()
            self._watcher.cancel()
            for inbox in self._inboxes.values():
                inbox.put_nowait(_not_ready(f"Triton does not answer: {self._end}"))
                self._unsent.release()  # who still waits to send must look there

    def _deliver(self, message: Any) -> None:
        answer: Any = message.infer_response
        request_id = answer.id
        if message.error_message:
            answer = _problem(message.error_message)
        if answer is None:  # an error, but not one of ours: Triton does not reach the model
            self.accepting = False
            answer = _not_ready(f"Triton does not serve the model: {message.error_message}")
        else:
            self._heard = True
        if request_id in self._inboxes:
            self._inboxes[request_id].put_nowait(answer)

    async def _watch(self) -> None:
        silent_periods = 0
        while silent_periods < 2:
            self._heard = False
            await asyncio.sleep(self._heartbeat_seconds)
            silent_periods = 0 if self._heard else silent_periods + 1
            if silent_periods == 1:
                self._outgoing.put_nowait(self._heartbeat)
        self._end = f"no sign of life within {2 * self._heartbeat_seconds:g} s"
        self.reader.cancel()


def _is_final(response: Any) -> bool:
    return bool(response.parameters["triton_final_response"].bool_param)


def _problem(message: str) -> GmemError | None:
    try:
        return from_problem(json.loads(message))
    except json.JSONDecodeError:
        return None


def _not_ready(detail: str) -> NotReadyError:
    return NotReadyError(detail, retry_after_seconds=RETRY_AFTER_SECONDS)
