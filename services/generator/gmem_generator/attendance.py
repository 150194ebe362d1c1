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

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if attending:
            left = True
            working.cancel()

    # The work runs in this task, so that an answer costs one task and not three. Beside an engine
    # in this process a turn of the event loop may take an evaluation: leaving takes few of them.
    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left or working.uncancel() > 0:
            raise
        on_left()
        raise CancelledError("the client left before its answer was ready") from None
    finally:
        attending = False
        watching.cancel()
