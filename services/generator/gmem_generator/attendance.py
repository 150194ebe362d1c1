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
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        on_left()
        raise CancelledError("the client left before its answer was ready")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
