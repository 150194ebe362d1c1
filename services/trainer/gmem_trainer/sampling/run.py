"""A sampling job on this machine: what is missing of its share, then the whole output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from gmem_shared.errors import NotReadyError, OutOfRangeError
from gmem_shared.settings import StoreSettings
from gmem_trainer.sampling.assembly import assemble, is_assembled
from gmem_trainer.sampling.job import Job
from gmem_trainer.sampling.parts import Parts
from gmem_trainer.sampling.processes import make_parts

Report = Callable[[int], None]
"""Is told how many images of the job are finished, whoever made them."""

Progress = Callable[[int, int], AbstractContextManager[Report]]
"""Number of images, and how many of them are finished already, to a context that is told more."""


@dataclass(frozen=True, slots=True)
class Share:
    """Every ``world_size``-th batch, beginning with number ``rank``."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise OutOfRangeError(
                f"expected a rank of 0 … {self.world_size - 1} for a world size of "
                f"{self.world_size}, found {self.rank}; set --world-size to the number of shares"
            )

    def of(self, num_parts: int) -> range:
        """Return the numbers of the batches."""
        return range(self.rank, num_parts, self.world_size)


def run(
    job: Job,
    output: Path,
    place: StoreSettings,
    devices: Sequence[str],
    share: Share,
    progress: Progress,
) -> bool:
    """Make what is missing of a share; whoever finds the job complete writes the output.

    Returns:
        Whether the output is there. Otherwise other machines are still at work.

    Raises:
        ConflictError: The output or its unfinished parts belong to another job.
        GmemError: What the images could not be made for.
    """
    folder = parts_folder(output)
    if is_assembled(output, job):
        return True
    parts = Parts(folder, job)
    finished = parts.finished()
    missing = [number for number in share.of(job.num_parts) if number not in finished]
    if missing:
        with progress(job.num_images, parts.finished_images()) as report:
            make_parts(
                parts,
                missing,
                place,
                devices[: len(missing)],
                lambda: report(parts.finished_images()),
            )
    if not is_assembled(output, job) and len(parts.finished()) < job.num_parts:
        return False
    assemble(parts, output)
    return True


def assemble_only(job: Job, output: Path) -> None:
    """Write the output of a job that is complete.

    Raises:
        NotReadyError: Images are missing.
    """
    if is_assembled(output, job):
        return
    parts = Parts(parts_folder(output), job)
    if parts.finished_images() < job.num_images:
        raise NotReadyError(
            f"expected {job.num_images} images in {parts.folder}, found "
            f"{parts.finished_images()}; run the command without --assemble to make the others"
        )
    assemble(parts, output)


def parts_folder(output: Path) -> Path:
    """Return where the batches of an unfinished output are."""
    return output.with_name(f"{output.name}.parts")
