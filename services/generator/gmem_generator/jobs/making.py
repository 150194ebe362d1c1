"""Makes parts of jobs, and of all parts the result: a zip of PNGs with a manifest.

A part is a small archive of the same form as the result. Archives depend on the images alone, no
clock is in them: who makes one again makes the same bytes.
"""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import structlog
from structlog.contextvars import bound_contextvars

from gmem_generator.answers import image_answer
from gmem_generator.jobs.board import Request
from gmem_generator.jobs.record import Job
from gmem_generator.pipeline import FinishedImage, Pipeline
from gmem_shared.errors import CancelledError
from gmem_shared.store import Results

MANIFEST = "manifest.jsonl"

_EPOCH = (1980, 1, 1, 0, 0, 0)
_SPOOL_BYTES = 8 << 20

_log = structlog.get_logger(__name__)


class Maker:
    """Makes what jobs ask for, and stores it; whatever is stored already is not made again."""

    def __init__(self, pipeline: Pipeline, results: Results) -> None:
        self._pipeline = pipeline
        self._results = results

    async def part(self, job: Job, request: Request, number: int) -> bool:
        """Make a part; return whether it had to be made.

        Raises:
            GmemError: It cannot be made or stored now, or at all.
        """
        if await asyncio.to_thread(self._results.has_part, job.id, number):
            return False
        with bound_contextvars(request_id=job.id):  # by which the logs of bank and engine name it
            made = await self._pipeline.run_part(request, job.images_of(number))
        content = await asyncio.to_thread(pack, made.images)
        if not await asyncio.to_thread(self._results.put_part, job.id, number, content):
            _log.warning(
                "job.part.differs", job=job.id, part=number
            )  # an engine that is not strict
        return True

    async def result(self, job: Job) -> bool:
        """Put the result together; return whether it had to be made.

        Raises:
            GmemError: A part is missing, or the store does not take it.
        """
        if await asyncio.to_thread(self._results.size, job.id) is not None:
            return False
        left = threading.Event()
        pieces = assemble(self._parts(job, left))
        try:
            await asyncio.to_thread(self._results.finish, job.id, pieces)
        finally:
            left.set()  # a thread cannot be cancelled
        return True

    async def clear(self, job: Job) -> None:
        """Delete the parts, which are in the result now."""
        await asyncio.to_thread(self._results.delete_parts, job.id)

    def _parts(self, job: Job, left: threading.Event) -> Iterator[bytes]:
        for number in range(job.parts):
            if left.is_set():
                raise CancelledError(f"nobody waits for the result of job {job.id} any more")
            yield self._results.read_part(job.id, number)


def pack(images: Sequence[FinishedImage]) -> bytes:
    """Return the archive of some images."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        lines = []
        for image in images:
            name = f"{image.origin.index:06d}.png"
            facts = image_answer(image).model_dump(exclude={"b64_png"})
            lines.append(json.dumps({"file": name, **facts}))
            archive.writestr(_member(name, zipfile.ZIP_STORED), image.png)
        archive.writestr(_member(MANIFEST, zipfile.ZIP_DEFLATED), "\n".join([*lines, ""]))
    return packed.getvalue()


def assemble(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the archive of all images, piece by piece, given those of the parts in order.

    Of the images one part is in memory at a time; the manifest, which comes last, waits in a file.
    """
    written = _Pieces()
    with (
        tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as manifest,
        zipfile.ZipFile(written, "w") as archive,
    ):
        for part in parts:
            _copy(part, archive, manifest)
            yield written.take()
        manifest.seek(0)
        with archive.open(_member(MANIFEST, zipfile.ZIP_DEFLATED), "w", force_zip64=True) as last:
            while piece := manifest.read(1 << 20):
                last.write(piece)
                yield written.take()
        archive.close()
        yield written.take()


def _copy(part: bytes, archive: zipfile.ZipFile, manifest: IO[bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(part)) as images:
        for name in images.namelist():
            content = images.read(name)
            if name == MANIFEST:
                manifest.write(content)
            else:
                # Deflated, with no effort, as a reader of the stream finds the end of it then.
                archive.writestr(_member(name, zipfile.ZIP_DEFLATED), content, compresslevel=0)


def _member(name: str, compression: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = compression
    return member


class _Pieces(io.RawIOBase):
    """A file that is written from front to back, and whose content is taken away meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override] # any buffer
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken, self._written = bytes(self._written), bytearray()
        return taken
