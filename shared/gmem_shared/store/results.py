"""What jobs leave in the store: parts while they run, then one file each.

::

    jobs/<id>/parts/<number, 6 digits>   create-only: of a part made twice the first is kept
    jobs/<id>/result                     whole or not there

Nothing refers to a job from a bank or model, and no collector looks here: whoever keeps the record
of a job deletes its folder with it.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Iterable, Iterator

from gmem_shared.errors import InvalidRequestError, NotFoundError
from gmem_shared.settings import StoreSettings
from gmem_shared.store.backends import connect
from gmem_shared.store.objects import Objects

PIECE_BYTES = 1 << 20

_ID = re.compile(r"[a-z0-9]{8,64}")
_PART = re.compile(r"/parts/([0-9]{6})$")


class Results:
    """Parts and results of jobs. Thread-safe; calls block on the store.

    Every method may raise `StorageError`.

    Args:
        settings: Of the store; connected to at the first call.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings

    @functools.cached_property
    def _objects(self) -> Objects:
        return connect(self._settings.url, self._settings.credentials_file)

    def put_part(self, job: str, number: int, content: bytes) -> bool:
        """Store a part unless it is there; return whether it now has this content."""
        return self._objects.create(_part(job, number), content)

    def has_part(self, job: str, number: int) -> bool:
        """Return whether a part is there."""
        return self._objects.stat(_part(job, number)) is not None

    def parts(self, job: str) -> set[int]:
        """Return the numbers of the parts that are there."""
        found = (_PART.search(info.path) for info in self._objects.scan(f"{_folder(job)}/parts"))
        return {int(match[1]) for match in found if match}

    def read_part(self, job: str, number: int) -> bytes:
        """Return a part; raises `NotFoundError`."""
        return self._objects.read(_part(job, number))

    def finish(self, job: str, pieces: Iterable[bytes]) -> None:
        """Store the result, piece by piece; one that is there already is replaced."""
        self._objects.write_pieces(_result(job), pieces)

    def size(self, job: str) -> int | None:
        """Return the size of the result in bytes, or `None` while there is none."""
        info = self._objects.stat(_result(job))
        return None if info is None else info.size

    def read(self, job: str) -> Iterator[bytes]:
        """Return the result piece by piece; raises `NotFoundError`."""
        size = self.size(job)
        if size is None:
            raise NotFoundError(f"the store has no result of job {job}")
        for start in range(0, size, PIECE_BYTES):
            yield self._objects.read_range(_result(job), start, min(PIECE_BYTES, size - start))

    def link(self, job: str, seconds: float) -> str | None:
        """Return an address from which anybody may read the result for a while.

        `None` if this kind of store has none.
        """
        return self._objects.link(_result(job), seconds)

    def delete_parts(self, job: str) -> None:
        """Delete the parts."""
        self._delete(f"{_folder(job)}/parts")

    def delete(self, job: str) -> None:
        """Delete all there is of a job."""
        self._delete(_folder(job))

    def _delete(self, folder: str) -> None:
        paths = [info.path for info in self._objects.scan(folder)]
        if paths:
            self._objects.delete(paths)
        if (local := self._objects.local_path(folder)) is not None:
            shutil.rmtree(local, ignore_errors=True)  # an object store has no folders to be left


def _folder(job: str) -> str:
    if not _ID.fullmatch(job):
        raise InvalidRequestError(f"expected a job id of letters and digits, found {job[:100]!r}")
    return f"jobs/{job}"


def _part(job: str, number: int) -> str:
    return f"{_folder(job)}/parts/{number:06d}"


def _result(job: str) -> str:
    return f"{_folder(job)}/result"
