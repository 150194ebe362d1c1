"""A progress bar for a long copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(what: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Show how far something is; nothing is drawn on a console that is no terminal.

    Args:
        what: A word or two before the bar.
        total: Bytes, rows or whatever is counted.
        console: Where to draw; standard error leaves the output to the command.

    Yields:
        A function to call with how much was done since its last call.
    """
    columns = (
        TextColumn(what), BarColumn(bar_width=24), TaskProgressColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
