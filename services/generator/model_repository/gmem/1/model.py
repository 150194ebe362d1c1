"""Triton's side of `gmem_shared.triton_io`: messages to the engine, no arithmetic."""

from __future__ import annotations

import faulthandler
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
import pydantic
import structlog
import triton_python_backend_utils as pb_utils
from mirror import MetricsMirror
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from replies import Account, Outbox, Reply

from gmem_model.engine.opening import open_engine
from gmem_shared import logs, telemetry, tracing, triton_io
from gmem_shared.errors import ConflictError, GmemError, InternalError, InvalidRequestError
from gmem_shared.settings import read_settings
from gmem_shared.types import GenerationTask, ModelInfo

log = structlog.get_logger(__name__)

CALL_THREADS = 4
"""Threads for calls that wait for the store, and as many for those that wait for a version."""

TICK_SECONDS = 0.25
"""How often vanished clients are looked for and metrics copied."""


STUCK_SECONDS = 60.0
"""Without a sign of life so long, the process is beyond help."""


class TritonPythonModel:
    """Hands requests to the engine and its images to Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store and start the engine."""
        triton_io.check_numpy(np.__version__)
        settings = read_settings()
        logs.configure(settings.log)
        tracing.configure("gmem-engine")
        registry = CollectorRegistry()
        self._host = open_engine(settings, registry)
        self._host.start()
        telemetry.ENGINE_SEEN.gauge(registry).set_function(time.time)
        self._metrics = MetricsMirror(registry)
        self._lock = Lock()  # guards the replies
        self._replies: dict[str, Reply] = {}
        self._outbox = Outbox()
        self._readers = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="reading")
        self._submitters = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="submitting")
        self._stopping = Event()
        self._ticker = Thread(target=self._tick, name="ticker")
        self._ticker.start()
        self._finalized = Event()
        watch = (os.getppid(), self._finalized)
        self._orphan_watch = Thread(target=_end_with, args=watch, name="orphan-watch", daemon=True)
        self._orphan_watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Take requests; their answers follow through their response senders."""
        for request in requests:
            reply = Reply(request.get_response_sender(), self._outbox)
            self._guard(reply, lambda r=request, p=reply: self._handle(r, p))

    def finalize(self) -> None:
        """Let the engine end what it began; Triton has stopped accepting requests."""
        self._readers.shutdown()
        self._submitters.shutdown()
        self._host.close()
        self._stopping.set()
        self._ticker.join()
        self._outbox.close()
        tracing.close()
        self._finalized.set()
        self._orphan_watch.join()

    def _handle(self, request: Any, reply: Reply) -> None:
        match _operation(request):
            case triton_io.Generate() as operation:
                carrier = _carrier(request)
                reply.account = Account(operation.id, carrier)
                self._generate(_task(operation, request, carrier), reply)
            case triton_io.Cancel(id=task_id):
                self._cancel(task_id)
                reply.done()
            case triton_io.Check():
                self._host.check()
                reply.answer(triton_io.MODEL_INFOS.dump_json([]))
            case triton_io.Describe(model=model):
                self._read(reply, lambda: [self._host.describe(model)])
            case triton_io.Models():
                self._read(reply, self._host.models)

    def _generate(self, task: GenerationTask, reply: Reply) -> None:
        with self._lock:
            present = self._replies.get(task.id)
            if present is not None and not present.ended:
                raise ConflictError(
                    f"task {task.id!r} is running already; give each task its own id"
                )
            self._replies[task.id] = reply
        reply.expected = len(task)
        if not self._host.offer(task, reply):
            self._submitters.submit(self._guard, reply, lambda: self._host.submit(task, reply))

    def _cancel(self, task_id: str) -> None:
        with self._lock:
            reply = self._replies.get(task_id)
        if reply is not None:
            reply.abandoned = True
            self._host.cancel(task_id)

    def _read(self, reply: Reply, call: Callable[[], list[ModelInfo]]) -> None:
        def answer() -> None:
            reply.answer(triton_io.MODEL_INFOS.dump_json(call()))

        self._readers.submit(self._guard, reply, answer)

    def _guard(self, reply: Reply, call: Callable[[], None]) -> None:
        try:
            call()
        except GmemError as error:
            reply.failed(error)
        except Exception as error:  # the border: a defect becomes this request's answer
            log.exception("triton.request.failed", **reply.identity)
            reply.failed(InternalError(f"the Triton model failed: {error!r}"))

    def _tick(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            for chore in (self._end_abandoned, self._metrics.update):
                try:
                    chore()
                except Exception:  # the next time may go well, and the other chore has to go on
                    log.exception("triton.tick.failed")

    def _end_abandoned(self) -> None:
        with self._lock:
            self._replies = {key: reply for key, reply in self._replies.items() if not reply.ended}
            replies = list(self._replies.items())
        for task_id, reply in replies:
            if not reply.abandoned and reply.client_gone():
                log.info("triton.client.gone", **reply.identity)
                reply.abandoned = True
            if reply.abandoned:  # perhaps its version was still loading when it was cancelled
                self._host.cancel(task_id)


def _end_with(parent: int, finalized: Event) -> None:
    """End this process when tritonserver was killed; it may hold a lock that ``finalize`` needs.

    A thread may even wait for such a lock with all of Python stopped. So there is a watch that
    needs no Python, and bites unless it is put off every second.
    """
    stderr = 2  # by number: whoever replaces ``sys.stderr`` does not disarm the watch
    while os.getppid() == parent:
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=stderr)
        if finalized.wait(1.0):
            faulthandler.cancel_dump_traceback_later()
            return
    os._exit(1)


def _operation(request: Any) -> triton_io.Operation:
    (content,) = _array(request, triton_io.OPERATION)
    try:
        return triton_io.OPERATION_ADAPTER.validate_json(content)
    except pydantic.ValidationError as error:
        raise InvalidRequestError(f"expected a known operation: {error}") from error


def _carrier(request: Any) -> tracing.Carrier:
    parameters = json.loads(request.parameters())
    names = (tracing.REQUEST_ID, tracing.TRACEPARENT)
    return {name: str(parameters[name]) for name in names if name in parameters}


def _task(operation: triton_io.Generate, request: Any, carrier: tracing.Carrier) -> GenerationTask:
    return GenerationTask(
        snippets=_optional_array(request, triton_io.SNIPPETS),
        labels=_optional_array(request, triton_io.LABELS),
        seeds=_array(request, triton_io.SEEDS),
        indices=_array(request, triton_io.INDICES),
        request_id=carrier.get(tracing.REQUEST_ID),
        **operation.model_dump(exclude={"op"}),
    )


def _array(request: Any, name: str) -> NDArray[Any]:
    array = _optional_array(request, name)
    if array is None:
        raise InvalidRequestError(f"expected the tensor {name!r}, found none")
    return array


def _optional_array(request: Any, name: str) -> NDArray[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    # A copy: the shared memory behind the tensor is reused when `execute` returns.
    return None if tensor is None else tensor.as_numpy().copy()
