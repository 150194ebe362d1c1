"""Structured logging: events with fields, not prose. Only entry points call :func:`configure`."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

from gmem_shared.settings import LogSettings

_CHATTY = ("faiss.loader", "uvicorn.error")
"""Libraries that announce every normal start; their warnings still pass."""

_KEY = re.compile(r"gmem_[A-Za-z0-9_-]{43}")
"""An API key: nothing of ours logs one, but callers may put theirs where it does not belong."""


def configure(settings: LogSettings) -> None:
    """Send every event, ours and the libraries', to standard error in one format.

    Fields bound with ``structlog.contextvars`` (the request id) appear in each event. Ours do not
    pass through the standard library, which would take longer than the rest of a short request.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer()
        if settings.json_lines
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        _mask_keys,
    ]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _mask_keys(_: Any, __: str, line: Any) -> str:
    return _KEY.sub("gmem_…", line)


class _Lines:
    """Where our events end: each is one write, so that threads do not mix theirs."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg
