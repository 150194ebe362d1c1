"""Progress of a sampling job: a bar for people, a few log events for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gmem_trainer.progress import SpeedColumn
from gmem_trainer.sampling.run import Report

_log = structlog.get_logger(__name__)

_LOG_EVERY = 0.1


@contextmanager
def sampling_progress(
    total: int,
    finished: int,
    console: Console,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Report]:
    """Show a job with its speed and the time it will still take, counting all its processes.

    Args:
        total: Images of the job.
        finished: Those that were there before; they do not count for the speed.
        console: Where to.
        clock: Seconds.
    """
    if not console.is_terminal:
        yield _logger(total, finished, clock)
        return
    columns = (
        TextColumn("sampling"), BarColumn(bar_width=24), MofNCompleteColumn(),
        SpeedColumn("images"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("sampling", total=total, completed=finished)
        yield lambda count: progress.update(task, completed=count)


def _logger(total: int, finished: int, clock: Callable[[], float]) -> Report:
    start, stride = clock(), max(1, round(total * _LOG_EVERY))
    logged = finished // stride

    def log(count: int) -> None:
        nonlocal logged
        if count // stride == logged and count < total:
            return
        logged = count // stride
        speed = (count - finished) / max(clock() - start, 1e-9)
        _log.info(
            "sampling.progress",
            images=count,
            total=total,
            images_per_second=round(speed, 1),
            seconds_left=round((total - count) / max(speed, 1e-9)),
        )

    return log
