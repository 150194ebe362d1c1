"""Curves of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from gmem_trainer.training.loop import Report, Step

Clock = Callable[[], float]


@contextmanager
def board(directory: Path, batch_size: int, clock: Clock) -> Iterator[Report]:
    """Write losses, learning rate, gradient norm and speed of every step into a folder.

    A run that goes on after a kill hides what it had written of the steps that it takes again.

    Args:
        directory: Created if missing.
        batch_size: Images per step.
        clock: Seconds; only differences count.
    """
    writer: SummaryWriter | None = None
    previous = clock()

    def write(step: Step) -> None:
        nonlocal writer, previous
        if writer is None:
            writer = SummaryWriter(str(directory), purge_step=step.number)
        now = clock()
        values = {f"loss/{part}": value for part, value in step.losses.items()} | {
            "learning_rate": step.learning_rate,
            "gradient_norm": step.gradient_norm,
            "images_per_second": batch_size / max(now - previous, 1e-9),
        }
        previous = now
        for name, value in values.items():
            writer.add_scalar(name, value, step.number)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
