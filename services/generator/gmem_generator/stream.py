"""Server-sent events: each image as it finishes, then ``completed`` (or ``error``)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gmem_generator.answers import completed, image_answer
from gmem_generator.negotiation import EVENTS
from gmem_generator.pipeline import FinishedImage, Result
from gmem_shared.errors import GmemError, to_problem

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"

Run = Callable[[Callable[[FinishedImage], None]], Coroutine[Any, Any, Result]]


class ImageStream(StreamingResponse):
    """A request in the making, as a response; ends the work when the client leaves.

    Args:
        run: Makes the images, given what takes each finished one.
        on_left: Called when the client leaves before the end.
    """

    def __init__(self, run: Run, on_left: Callable[[], None]) -> None:
        self._images: asyncio.Queue[FinishedImage | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._work = asyncio.create_task(run(self._deliver))
        self._work.add_done_callback(self._ended)
        self._on_left = on_left
        super().__init__(
            self._events(),
            media_type=EVENTS,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def begin(self) -> ImageStream:
        """Wait for the first image: what fails before it is an ordinary error with a status.

        Raises:
            GmemError: The request was refused or failed.
        """
        try:
            await self._begun.wait()
        except asyncio.CancelledError:
            self._work.cancel()
            raise
        if self._work.done():
            self._work.result()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._work.done():
                self._on_left()
                self._work.cancel()

    async def _events(self) -> AsyncIterator[bytes]:
        while True:
            try:
                image = await asyncio.wait_for(self._images.get(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield KEEP_ALIVE
                continue
            if image is None:
                break
            yield event("image", image_answer(image).model_dump_json())
        try:
            yield event("completed", completed(self._work.result()).model_dump_json())
        except GmemError as error:
            yield event("error", json.dumps(to_problem(error)))

    def _deliver(self, image: FinishedImage | None) -> None:
        self._images.put_nowait(image)
        self._begun.set()

    def _ended(self, work: asyncio.Task[Result]) -> None:
        self._deliver(None)
        if not work.cancelled():
            work.exception()  # retrieved, in case nobody is left to be told


def event(name: str, data: str) -> bytes:
    """Return a server-sent event; ``data`` is of one line."""
    return f"event: {name}\ndata: {data}\n\n".encode()
