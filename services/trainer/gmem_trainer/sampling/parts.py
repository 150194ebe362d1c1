"""The folder ``<out>.parts/``: finished batches of a job, written by any number of processes.

``job.json`` says what the parts are of; it is created once and never changes. Each batch is one
file that exists in full or not at all, so a job may be killed at any moment, by any means, and goes
on where it stopped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gmem_shared.errors import ConflictError, CorruptVersionError
from gmem_trainer.sampling.job import Job

JOB_FILE = "job.json"
_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Part:
    """A finished batch.

    Attributes:
        images: uint8 ``(n, height, width, channels)``.
        indices: int64 ``(n,)``, the images' numbers.
        rows: int64 ``(n,)``, rows of the bank, -1 without a bank.
        labels: int64 ``(n,)``, class ids, -1 for none.
    """

    images: NDArray[np.uint8]
    indices: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


class Parts:
    """The finished batches of one job.

    Args:
        folder: Created if it is not there; shared by all processes of the job.
        job: What the batches are of.

    Raises:
        ConflictError: The folder holds batches of another job.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder = folder
        self.job = job
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / JOB_FILE).exists():
            self._create(folder / JOB_FILE, job.model_dump_json(indent=1).encode())
        check_same_job((folder / JOB_FILE).read_bytes(), job, str(folder))

    def finished(self) -> set[int]:
        """Return the numbers of the batches that are there."""
        return {int(path.stem) for path in self.folder.glob(f"*{_SUFFIX}")}

    def finished_images(self) -> int:
        """Count the images that are there, whoever made them."""
        return sum(len(self.job.indices(part)) for part in self.finished())

    def write(self, number: int, part: Part) -> None:
        """Keep a finished batch; written twice, the same batch is kept once."""
        content = {field.name: getattr(part, field.name) for field in fields(part)}
        self._write_partial(save(content)).replace(self._path(number))

    def read(self, number: int) -> Part:
        """Read a batch.

        Raises:
            CorruptVersionError: The file is not the batch it is named for.
        """
        path = self._path(number)
        try:
            part = Part(**load_file(path))
        except (SafetensorError, TypeError) as error:
            raise CorruptVersionError(
                f"{path} does not open ({error}); delete it and run the command again"
            ) from error
        if not np.array_equal(part.indices, self.job.indices(number)):
            raise CorruptVersionError(
                f"expected images {self.job.indices(number)[[0, -1]]} in {path}, found others; "
                "delete it and run the command again"
            )
        return part

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process is in here; the kernel lets go for one that is killed."""
        self.folder.mkdir(exist_ok=True)  # whoever was in here before may have deleted it
        with (self.folder / "assembly.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def delete(self) -> None:
        """Remove the folder, which another process may be removing too."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}{_SUFFIX}"

    def _create(self, path: Path, data: bytes) -> None:
        """Create a file in full, unless another process did."""
        partial = self._write_partial(data)
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            pass
        finally:
            partial.unlink()

    def _write_partial(self, data: bytes) -> Path:
        """Write a file under a name of its own, as other processes may write the same."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".partial", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return Path(file.name)


def check_same_job(found: bytes, job: Job, where: str) -> None:
    """Compare a ``job.json`` with a job.

    Raises:
        ConflictError: They differ; the message names each difference.
    """
    try:
        other = Job.model_validate_json(found)
    except ValidationError as error:
        raise ConflictError(f"{where} holds a job this release does not know: {error}") from error
    differences = "; ".join(job.differences(other))
    if differences:
        raise ConflictError(
            f"{where} belongs to a job with other parameters: found {differences}. Repeat that "
            "job's parameters, or choose another --out, or delete it"
        )
