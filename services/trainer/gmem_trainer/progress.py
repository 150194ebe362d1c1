"""Progress of a long loop: a bar for people, a few log events for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_log = structlog.get_logger(__name__)

_LOSS_MEMORY = 0.95
_LOG_EVERY = 0.1


class SpeedColumn(ProgressColumn):
    """How many of a unit are done per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the speed; nothing while it is unknown."""
        speed = task.finished_speed or task.speed
        text = "" if speed is None else f"{speed:.1f} {self._unit}/s"
        return Text(text, style="progress.data.speed")


class Display:
    """Shows the long stages of a run; on a terminal as bars, otherwise as a few log events."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    @contextmanager
    def training(self, total: int) -> Iterator[Callable[[int, float], None]]:
        """Show steps; call the yielded function with their number and loss."""
        if self._console is None:
            yield lambda step, loss: None
            return
        with training_progress(total, self._console) as show:
            yield show

    @contextmanager
    def preparation(self, total: int) -> Iterator[Callable[[int], None]]:
        """Show images; call the yielded function with the number of those just finished."""
        if self._console is None:
            yield lambda images: None
            return
        with preparation_progress(total, self._console) as show:
            yield show


SILENT = Display(None)
"""Shows nothing."""


@contextmanager
def preparation_progress(total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Show the preparation of a data set; call the yielded function with the images finished."""
    if not console.is_terminal:
        done, stride = 0, max(1, round(total * _LOG_EVERY))

        def log(images: int) -> None:
            nonlocal done
            before, done = done, done + images
            if done // stride > before // stride:
                _log.info("preparation.progress", images=done, total=total)

        yield log
        return
    columns = (
        TextColumn("preparing"), BarColumn(bar_width=24), MofNCompleteColumn(),
        SpeedColumn("images"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("preparing", total=total)
        yield lambda images: progress.update(task, advance=images)


@contextmanager
def training_progress(total: int, console: Console) -> Iterator[Callable[[int, float], None]]:
    """Show a training run; call the yielded function with (steps done, loss) after each step."""
    smooth = _RunningMean()
    if not console.is_terminal:
        stride = max(1, round(total * _LOG_EVERY))

        def log(step: int, loss: float) -> None:
            mean = smooth(loss)
            if step % stride == 0 or step == total:
                _log.info("training.progress", step=step, steps=total, loss=round(mean, 4))

        yield log
        return

    columns = (
        TextColumn("training"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"), SpeedColumn("steps"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=total, loss=float("nan"))

        def draw(step: int, loss: float) -> None:
            progress.update(task, completed=step, loss=smooth(loss))

        yield draw


class _RunningMean:
    """Exponential mean that starts at the first value."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def __call__(self, value: float) -> float:
        previous = value if self._mean is None else self._mean
        self._mean = _LOSS_MEMORY * previous + (1 - _LOSS_MEMORY) * value
        return self._mean
