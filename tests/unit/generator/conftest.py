from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.support.front import Front, running_front


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with running_front() as running:
        yield running


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log events of the test, instead of text on the terminal."""
    with capture_logs(processors=[merge_contextvars]) as events:
        yield events
