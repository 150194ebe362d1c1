"""The answers to one request, brought to Triton without holding up the engine."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import grpc
import numpy as np
import structlog
import triton_python_backend_utils as pb_utils

from gmem_shared import tracing, triton_io
from gmem_shared.errors import GmemError, status_of, to_problem
from gmem_shared.types import GeneratedImage

log = structlog.get_logger(__name__)

# By name: the module gets these attributes only after this one is imported.
TRITON_CODES = {
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARG",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.OUT_OF_RANGE: "INVALID_ARG",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
}


@dataclass(frozen=True)
class _End:
    """How a reply ends: with an error, with a last ``META``, or empty."""

    error: GmemError | None = None
    meta: bytes | None = None


class Account:
    """What is told of a finished task: a line in the log, and the spans of its last image.

    Args:
        task: Its id.
        carrier: What came along with its request.
    """

    def __init__(self, task: str, carrier: tracing.Carrier) -> None:
        self.identity = {"task": task, **tracing.identity(carrier)}
        self._carrier = carrier
        self._images = 0
        self._stages: dict[str, float] = {}
        self._last = 0.0

    def image(self, image: GeneratedImage) -> None:
        """Take note of a finished image; returns at once."""
        self._images += 1
        self._last = time.time()
        self._stages = image.stages

    def close(self, error: GmemError | None) -> None:
        """Tell it."""
        tracing.record(self._stages, self._last, self._carrier)
        code = error.code if error is not None else "ok"
        stages = {stage: round(seconds, 4) for stage, seconds in self._stages.items()}
        log.info("engine.task.finished", images=self._images, code=code, **stages, **self.identity)


class Reply:
    """Answers to one request; a `gmem_model.engine.Listener`.

    Methods return at once. Whatever has piled up when the `Outbox` comes by goes out as one
    response: handing Triton a response costs about half a millisecond, whatever it holds.
    """

    def __init__(self, sender: Any, outbox: Outbox) -> None:
        self.abandoned = False
        self.expected = 0
        """How many images there will be; the end follows the last one at once."""
        self.account: Account | None = None
        self._taken = 0
        self._sender = sender
        self._outbox = outbox
        self._images: deque[GeneratedImage] = deque()
        self._end: _End | None = None
        # Triton frees what `is_cancelled` reads as soon as the final response is sent.
        self._sending = Lock()
        self._sent = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will be said."""
        return self._end is not None

    @property
    def identity(self) -> dict[str, str]:
        """What log lines about it carry."""
        return {} if self.account is None else self.account.identity

    def client_gone(self) -> bool:
        """Whether the stream that carried the request was cancelled or broke."""
        with self._sending:
            return not self._sent and bool(self._sender.is_cancelled())

    def image(self, image: GeneratedImage) -> None:
        """Send one finished image; the last one goes with the end."""
        if self.account is not None:
            self.account.image(image)
        self._images.append(image)
        self._taken += 1
        if self._taken != self.expected:
            self._outbox.put(self)

    def done(self) -> None:
        """End the reply."""
        self._finish(_End())

    def failed(self, error: GmemError) -> None:
        """End the reply with an error."""
        self._finish(_End(error=error))

    def answer(self, meta: bytes) -> None:
        """End the reply with a ``META`` tensor."""
        self._finish(_End(meta=meta))

    def _finish(self, end: _End) -> None:
        self._end = end
        self._outbox.put(self)

    def flush(self) -> None:
        """Send what has piled up; called by the outbox only."""
        with self._sending:
            before = self._sent
            self._flush()
            ended = self._sent and not before
        if ended and self._end is not None and self.account is not None:
            self.account.close(self._end.error)

    def _flush(self) -> None:
        end = self._end  # read first: no image follows the end
        images = [self._images.popleft() for _ in range(len(self._images))]
        if self._sent or not (images or end):
            return
        self._sent = end is not None
        if images:
            last = end is not None and end.error is None
            self._send(_images_response(images), final=last)
            if last:
                return
        if end is not None:
            self._send(_end_response(end), final=True)

    def _send(self, response: Any, *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        if response is None:
            self._sender.send(flags=flags)
        else:
            self._sender.send(response, flags=flags)


class Outbox:
    """The thread that hands replies to Triton."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Reply | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="outbox")
        self._thread.start()

    def put(self, reply: Reply) -> None:
        """Have a reply flushed soon."""
        self._waiting.put(reply)

    def close(self) -> None:
        """Flush what was put, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (reply := self._waiting.get()) is not None:
            try:
                reply.flush()
            except Exception:  # one broken stream must not silence the others
                log.exception("triton.reply.failed", **reply.identity)


def _meta(content: bytes) -> Any:
    return pb_utils.Tensor(triton_io.META, np.array([content], dtype=np.object_))


def _images_response(images: list[GeneratedImage]) -> Any:
    metas = [
        triton_io.ImageMeta(
            position=image.position,
            model_name=image.model.name,
            model_seq=image.model.seq,
            model_digest=image.model.digest,
            evaluations=image.evaluations,
            queue_seconds=image.queue_seconds,
            denoise_seconds=image.denoise_seconds,
            decode_seconds=image.decode_seconds,
        )
        for image in images
    ]
    pixels = pb_utils.Tensor(triton_io.IMAGES, np.stack([image.pixels for image in images]))
    return pb_utils.InferenceResponse([pixels, _meta(triton_io.IMAGE_METAS.dump_json(metas))])


def _end_response(end: _End) -> Any:
    if end.error is not None:
        name = TRITON_CODES.get(status_of(end.error).grpc, "INTERNAL")
        code = getattr(pb_utils.TritonError, name)
        message = json.dumps(to_problem(end.error))
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
    return None if end.meta is None else pb_utils.InferenceResponse([_meta(end.meta)])
