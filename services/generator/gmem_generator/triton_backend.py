"""The engine behind a real tritonserver."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gmem_generator.triton_stream import RETRY_AFTER_SECONDS, TritonStream
from gmem_shared import tls, tracing, triton_io
from gmem_shared.errors import DeadlineExceededError, InternalError, NotReadyError
from gmem_shared.settings import Settings
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo, VersionRef

CHECK_SECONDS = 2.0
"""How long `TritonBackend.check` waits."""

CHECK_VALID_SECONDS = 1.0
"""How long a good answer of `TritonBackend.check` holds."""

DEADLINE_GRACE_SECONDS = 1.0
"""The engine ends a late task itself; only if it does not, the client does."""

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC reconnects by itself; by default it waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Channels to one address share a connection, and its broken state, unless told otherwise.
    ("grpc.use_local_subchannel_pool", 1),
]


class TritonBackend:
    """A `gmem_shared.ports.Backend` over one stream to Triton at ``address`` (gRPC).

    With ``credentials`` the connection is encrypted, and Triton known by them. Its certificate is
    for ``server_name``, by default the host of the address.

    Any number of front ends may use one Triton.

    A broken stream fails what was in flight with `NotReadyError`; the next call opens a new one.
    """

    SHAREABLE: ClassVar[bool] = True

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = 10.0,
        heartbeat_seconds: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str | None = None,
    ) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._credentials = credentials
        self._server_name = server_name
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._current: TritonStream | None = None
        self._readers: set[asyncio.Task[None]] = set()
        self._checked = float("-inf")

    @classmethod
    def from_settings(cls, settings: Settings, address: str | None = None) -> TritonBackend:
        """Build the backend; connects at the first call.

        Args:
            settings: Those of the front end.
            address: One of the addresses that the name in the settings stands for, to connect to
                this one; its certificate is still for the name.
        """
        name = settings.generator.triton_address
        return cls(
            address or name,
            timeout_seconds=settings.triton.timeout_seconds,
            heartbeat_seconds=settings.triton.heartbeat_seconds,
            credentials=tls.channel_credentials(settings.security),
            server_name=None if address is None else name.rpartition(":")[0],
        )

    async def start(self) -> None:
        """Open the channel, which connects when it is first needed."""
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        else:
            name = self._server_name
            known_as = [] if name is None else [("grpc.ssl_target_name_override", name)]
            self._channel = grpc.aio.secure_channel(
                self._address, self._credentials, options=[*CHANNEL_OPTIONS, *known_as]
            )
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Take nothing more, let the tasks in flight end, then close the channel."""
        channel, self._channel = self._channel, None
        if self._current is not None:
            self._current.retire()
        self._checked = float("-inf")
        if self._readers:
            await asyncio.wait(self._readers)
        if channel is not None:
            await channel.close(None)

    async def check(self) -> None:
        """Return when a generation would be accepted.

        Raises:
            NotReadyError: Triton or its engine is away or not ready; the message says which.
        """
        now = asyncio.get_running_loop().time()
        if now - self._checked > CHECK_VALID_SECONDS:
            await self._ask(triton_io.Check(), CHECK_SECONDS)
            self._checked = now

    async def models(self) -> list[ModelInfo]:
        """Describe the default version of every model in the store."""
        return await self._ask(triton_io.Models(), self._timeout_seconds)

    async def describe(self, model: str) -> ModelInfo:
        """Describe one model version."""
        (info,) = await self._ask(triton_io.Describe(model=model), self._timeout_seconds)
        return info

    async def generate(self, task: GenerationTask) -> AsyncGenerator[GeneratedImage]:
        """Yield each image as it finishes. Closing the iterator cancels what is left.

        Raises:
            DeadlineExceededError: The task's deadline passed.
            NotReadyError: Triton is away, or went away.
            GmemError: The engine refused or failed the task.
        """
        seconds = task.deadline_seconds
        limit = None if seconds is None else seconds + DEADLINE_GRACE_SECONDS
        cancel = _request(triton_io.Cancel(id=task.id))
        received = 0
        responses = self._stream().exchange(_generate_request(task), limit, cancel)
        async with aclosing(responses):
            try:
                async for response in responses:
                    for image in _images(response):
                        received += 1
                        yield image
            except TimeoutError as error:
                raise DeadlineExceededError(
                    f"the deadline of {seconds} s came when {received} of {len(task)} images were "
                    "finished"
                ) from error
        if received != len(task):
            raise InternalError(f"expected {len(task)} images from Triton, found {received}")

    async def _ask(self, operation: triton_io.Operation, seconds: float) -> list[ModelInfo]:
        """Send an operation that is answered by one response."""
        try:
            async with aclosing(
                self._stream().exchange(_request(operation), seconds, cancel=None)
            ) as responses:
                async for response in responses:
                    return triton_io.MODEL_INFOS.validate_json(_meta(response))
        except TimeoutError as error:
            raise NotReadyError(
                f"expected an answer of Triton at {self._address} within {seconds:g} s, found none",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        raise InternalError(f"expected an answer to {operation.op!r} from Triton, found none")

    def _stream(self) -> TritonStream:
        if self._channel is None:
            raise NotReadyError(
                "expected a started backend, found one that was not started or is shutting down",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if self._current is None or not self._current.accepting:
            heartbeat = _request(triton_io.Check())
            self._current = TritonStream(self._stub, heartbeat, self._heartbeat_seconds)
            self._readers.add(self._current.reader)
            self._current.reader.add_done_callback(self._readers.discard)
        return self._current


def _request(operation: triton_io.Operation) -> ModelInferRequest:
    content = operation.model_dump_json().encode()
    request = ModelInferRequest(model_name=triton_io.MODEL_NAME)
    request.inputs.add(name=triton_io.OPERATION, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(content)) + content)
    return request


def _generate_request(task: GenerationTask) -> ModelInferRequest:
    operation = triton_io.Generate(
        id=task.id,
        model=task.model,
        encoder=task.encoder,
        sampler=task.sampler,
        num_steps=task.num_steps,
        guidance_scale=task.guidance_scale,
        priority=task.priority,
        deadline_seconds=task.deadline_seconds,
    )
    request = _request(operation)
    for name, value in tracing.outgoing().items():
        request.parameters[name].string_param = value
    if task.snippets is not None:
        _add_tensor(request, triton_io.SNIPPETS, "FP32", task.snippets.astype("<f4"))
    if task.labels is not None:
        _add_tensor(request, triton_io.LABELS, "INT32", task.labels.astype("<i4"))
    _add_tensor(request, triton_io.SEEDS, "UINT64", task.seeds.astype("<u8"))
    _add_tensor(request, triton_io.INDICES, "INT64", task.indices.astype("<i8"))
    return request


def _add_tensor(request: ModelInferRequest, name: str, datatype: str, array: NDArray[Any]) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())


def _meta(response: Any) -> bytes:
    _, raw = _tensor(response, triton_io.META)
    return raw[4:]  # one element of BYTES: its length, itself


def _tensor(response: Any, name: str) -> tuple[list[int], bytes]:
    """Return shape and bytes of an output."""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == name:
            return list(output.shape), raw
    raise InternalError(f"expected the tensor {name!r} from Triton, found none")


def _images(response: Any) -> list[GeneratedImage]:
    shape, raw = _tensor(response, triton_io.IMAGES)
    pixels = np.frombuffer(raw, np.uint8).reshape(shape)
    metas = triton_io.IMAGE_METAS.validate_json(_meta(response))
    return [
        GeneratedImage(
            position=meta.position,
            pixels=image,
            model=VersionRef(meta.model_name, meta.model_seq, meta.model_digest),
            evaluations=meta.evaluations,
            queue_seconds=meta.queue_seconds,
            denoise_seconds=meta.denoise_seconds,
            decode_seconds=meta.decode_seconds,
        )
        for image, meta in zip(pixels, metas, strict=True)
    ]
