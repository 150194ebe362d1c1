"""The engine on this machine's cores, as a backend of the front end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import REGISTRY

from gmem_model.engine.opening import open_engine
from gmem_shared import tracing
from gmem_shared.errors import GmemError, NotReadyError
from gmem_shared.settings import Settings
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo

if TYPE_CHECKING:
    from gmem_model.engine.host import EngineHost
    from gmem_model.engine.pool.pool import EnginePool

Result = TypeVar("Result")

_WORKERS = 4


class EmbeddedBackend:
    """An `EngineHost`, or a pool of them, behind an asyncio interface.

    Calls that may wait for the store run on a few threads of their own, and apart from them those
    that wait until a version is loaded: neither holds up a task whose version is.
    """

    def __init__(self, host: EngineHost | EnginePool) -> None:
        self._host = host
        self._readers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="engine-read")
        self._submitters = ThreadPoolExecutor(_WORKERS, thread_name_prefix="engine-submit")

    @classmethod
    def from_settings(cls, settings: Settings) -> EmbeddedBackend:
        """Build the backend; loads nothing yet."""
        return cls(open_engine(settings, REGISTRY))

    async def start(self) -> None:
        """Begin to load the default model; does not wait for it."""
        self._host.start()

    async def close(self) -> None:
        """Finish the accepted tasks and release the engines."""
        await asyncio.to_thread(self._host.close)
        for pool in (self._readers, self._submitters):
            await asyncio.to_thread(pool.shutdown)

    async def check(self) -> None:
        """Return when a generation would be accepted; raise `NotReadyError` otherwise."""
        self._host.check()

    async def models(self) -> list[ModelInfo]:
        """Describe the default version of every model in the store."""
        return await _run(self._readers, self._host.models)

    async def describe(self, model: str) -> ModelInfo:
        """Describe one model version."""
        return await _run(self._readers, partial(self._host.describe, model))

    async def generate(self, task: GenerationTask) -> AsyncGenerator[GeneratedImage]:
        """Yield each image as it finishes. Closing the iterator cancels what is left."""
        mailbox = _Mailbox(asyncio.get_running_loop(), len(task))
        if not self._host.offer(task, mailbox):
            await self._submit(task, mailbox)
        received = 0
        try:
            while (image := await mailbox.receive()) is not None:
                received += 1
                if received == len(task):
                    tracing.record(image.stages, time.time())
                yield image
        finally:
            if not mailbox.ended:
                self._host.cancel(task.id)

    async def _submit(self, task: GenerationTask, mailbox: _Mailbox) -> None:
        """Hand over a task whose version may have to be loaded."""
        submission = asyncio.ensure_future(
            _run(self._submitters, partial(self._host.submit, task, mailbox))
        )
        try:
            await asyncio.shield(submission)
        except asyncio.CancelledError:
            # A submission that is still on its way cannot be recalled: cancel when it arrives.
            submission.add_done_callback(partial(self._withdraw, task.id))
            raise

    def _withdraw(self, task_id: str, submission: asyncio.Future[None]) -> None:
        if not submission.cancelled() and submission.exception() is None:
            self._host.cancel(task_id)


class _Mailbox:
    """A listener that hands over to one consumer on an event loop.

    The loop is woken for every image but the last, which goes with the end: for one image once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expected: int) -> None:
        self._loop = loop
        self._awaited = expected
        self._waiting: list[GeneratedImage | GmemError | None] = []
        self._queue: asyncio.Queue[GeneratedImage | GmemError | None] = asyncio.Queue()
        self.ended = False

    def image(self, image: GeneratedImage) -> None:
        self._waiting.append(image)
        self._awaited -= 1
        if self._awaited:
            self._hand_over()

    def done(self) -> None:
        self._waiting.append(None)
        self._hand_over()

    def failed(self, error: GmemError) -> None:
        self._waiting.append(error)
        self._hand_over()

    async def receive(self) -> GeneratedImage | None:
        """Return the next image, ``None`` after the last; raises what the task failed with."""
        item = await self._queue.get()
        self.ended = item is None or isinstance(item, GmemError)
        if isinstance(item, GmemError):
            raise item
        return item

    def _hand_over(self) -> None:
        items, self._waiting = self._waiting, []
        self._loop.call_soon_threadsafe(self._put, items)

    def _put(self, items: list[GeneratedImage | GmemError | None]) -> None:
        for item in items:
            self._queue.put_nowait(item)


async def _run(pool: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
    try:
        result = asyncio.get_running_loop().run_in_executor(pool, call)
    except RuntimeError as error:  # closed
        raise NotReadyError("the engine is shutting down", retry_after_seconds=1.0) from error
    return await result
