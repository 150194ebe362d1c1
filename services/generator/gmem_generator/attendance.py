"""Works for a client only as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from gmem_shared.errors import CancelledError

T = TypeVar("T")


async def attend(request: Request, work: Coroutine[Any, Any, T], on_left: Callable[[], None]) -> T:
    """Return what ``work`` returns; cancel it when the client leaves first.

    The request's body must have been read.

    Raises:
        CancelledError: The client left; nobody reads this answer.
    """
    working = asyncio.current_task()
    assert working is not None  # noqa: S101 (this is a coroutine)
    attending = True
    left = False

    def leave(_: asyncio.Task[None]) -> None:
        nonlocal left
        if attending:
            left = True
            working.cancel()

    # The work runs in this task, so that an answer costs one task and not three.
    leaving = asyncio.create_task(_left(request))
    leaving.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if not left or working.uncancel() > 0:
            raise
        on_left()
        raise CancelledError("the client left before its answer was ready") from None
    finally:
        attending = False
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
