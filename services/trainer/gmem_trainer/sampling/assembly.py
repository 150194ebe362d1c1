"""From the finished batches of a job to what was asked for: one npz file, or a folder of PNGs.

Both are written one batch at a time, so that memory does not grow with the number of images, and
under another name until they are whole.
"""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmem_shared.errors import ConflictError
from gmem_trainer.sampling.job import Job
from gmem_trainer.sampling.parts import JOB_FILE, Part, Parts, check_same_job

LIST_FILE = "images.csv"
"""In a folder: number, bank row and class of each image."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Zip's first moment: the same job gives the same file."""


def is_archive(output: Path) -> bool:
    """Tell whether the output is to be an npz file rather than a folder."""
    return output.suffix == ".npz"


def is_assembled(output: Path, job: Job) -> bool:
    """Tell whether the output of this very job is there.

    Raises:
        ConflictError: Something else is.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    check_same_job(_read_job(output), job, str(output))
    return True


def assemble(parts: Parts, output: Path) -> None:
    """Write the output from all batches of a job, then delete the batches.

    Processes may call this at the same time; one of them does the work.

    Raises:
        ConflictError: Another job's output is there.
        CorruptVersionError: A batch is damaged.
    """
    with parts.alone():
        if not is_assembled(output, parts.job):
            partial = output.with_name(f"{output.name}.partial")
            _remove(partial)  # left by a process that was killed here
            (_write_npz if is_archive(output) else _write_folder)(partial, parts)
            partial.replace(output)
    parts.delete()


def _write_npz(path: Path, parts: Parts) -> None:
    """Write what the evaluator of ADM reads, plus where each image comes from.

    ``arr_0`` uint8 ``(N, height, width, 3)``, ``arr_1`` int64 ``(N,)`` class ids as ADM names them,
    ``indices`` and ``rows`` int64 ``(N,)``, and ``job.json``.
    """
    attributes = {"arr_1": "labels", "indices": "indices", "rows": "rows"}
    columns: dict[str, list[NDArray[np.int64]]] = {name: [] for name in attributes}
    height, width, _ = parts.read(0).images.shape[1:]

    def pixels() -> Iterator[bytes]:
        for part in _in_order(parts):
            yield _three_channels(part.images).tobytes()
            for name, attribute in attributes.items():
                columns[name].append(getattr(part, attribute))

    with zipfile.ZipFile(path, "w") as archive:
        shape = (parts.job.num_images, height, width, 3)
        _write_array(archive, "arr_0", np.dtype(np.uint8), shape, pixels())
        for name, pieces in columns.items():
            column = np.concatenate(pieces)
            _write_array(archive, name, column.dtype, column.shape, [column.tobytes()])
        archive.writestr(zipfile.ZipInfo(JOB_FILE, _EPOCH), parts.job.model_dump_json(indent=1))


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    chunks: Iterable[bytes],
) -> None:
    """Stream an array into the archive, as ``numpy.savez`` would store it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk)


def _write_folder(folder: Path, parts: Parts) -> None:
    """Write ``000000.png`` and so on, grey images as grey ones, and `LIST_FILE`."""
    folder.mkdir()
    with (folder / LIST_FILE).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("index", "row", "label"))
        for part in _in_order(parts):
            for image, *origin in zip(
                part.images, part.indices, part.rows, part.labels, strict=True
            ):
                pixels = image[..., 0] if image.shape[-1] == 1 else image
                Image.fromarray(pixels).save(folder / f"{origin[0]:06d}.png")
                table.writerow(map(int, origin))
    (folder / JOB_FILE).write_text(parts.job.model_dump_json(indent=1))


def _in_order(parts: Parts) -> Iterator[Part]:
    return map(parts.read, range(parts.job.num_parts))


def _three_channels(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images.repeat(3, axis=-1) if images.shape[-1] == 1 else images


def _read_job(output: Path) -> bytes:
    try:
        if output.is_dir():
            return (output / JOB_FILE).read_bytes()
        with zipfile.ZipFile(output) as archive:
            return archive.read(JOB_FILE)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ConflictError(
            f"{output} exists and is no output of this command; choose another --out"
        ) from error


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
