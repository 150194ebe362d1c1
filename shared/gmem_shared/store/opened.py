"""Opening a version: verified local files, from the store itself or from a cache of copies."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from gmem_shared.errors import CorruptVersionError, NotFoundError, StorageError
from gmem_shared.store.backends import sync_folder
from gmem_shared.store.manifest import FileEntry
from gmem_shared.store.objects import Objects
from gmem_shared.store.verify import FileVerifier, check_chunks, check_size
from gmem_shared.store.version import Version

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """A version whose files are on this machine and verified. The files must not be changed."""

    version: Version
    paths: Mapping[str, Path]

    def path(self, file: str) -> Path:
        """Return where a file lies; raises `NotFoundError` naming the files there are."""
        try:
            return self.paths[file]
        except KeyError:
            raise NotFoundError(
                f"expected a file {file!r} in {self.version.ref}, found {sorted(self.paths)}"
            ) from None

    def read_json(self, file: str) -> Any:
        """Parse a JSON file; raises `NotFoundError`, or `CorruptVersionError` if it is none."""
        try:
            return json.loads(self.path(file).read_bytes())
        except ValueError as error:
            raise CorruptVersionError(
                f"{self.version.ref}: file {file!r} is not JSON: {error}"
            ) from error


class BlobOpener:
    """Turns blobs into verified files of this machine. Thread-safe.

    A local store's blobs are used in place. Others are copied to the cache under a temporary
    name, verified, synced and renamed, so that a file under its final name was good once; it
    is verified again when a process first opens it, and fetched again if it went bad.

    Args:
        objects: The store.
        cache_dir: The cache, which only this side may write to.
        in_place: Whether a local store's blobs are used in place. Where its writers are not
            trusted they must not be: what was verified could be changed before it is read.
    """

    def __init__(self, objects: Objects, cache_dir: Path, *, in_place: bool) -> None:
        self._objects = objects
        self._cache_dir = cache_dir
        self._in_place = in_place
        self._verifier = FileVerifier()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def open(
        self, blob: str, where: str, file: str, entry: FileEntry, cores: int | None = None
    ) -> Path:
        """Return the path of the verified file.

        ``cores`` may verify what is on this machine, by default all.

        Raises:
            CorruptVersionError: The file is not the published one.
            StorageError: It cannot be read, or not be kept in the cache.
        """
        try:
            return self._open(blob, where, file, entry, cores)
        except OSError as error:
            raise StorageError(
                f"{where}: file {file!r} cannot be used on this machine: {error}; check the "
                f"permissions and the free space there"
            ) from error

    def _open(self, blob: str, where: str, file: str, entry: FileEntry, cores: int | None) -> Path:
        local = self._objects.local_path(blob) if self._in_place else None
        if local is not None:
            self._verifier.check(local, where, file, entry, cores)
            return local
        cached = self._cache_dir.absolute() / "sha256" / entry.sha256[:2] / entry.sha256
        with self._locks[entry.sha256]:
            if not self._is_good(cached, where, file, entry, cores):
                self._fetch(blob, cached, where, file, entry)
        return cached

    def _is_good(
        self, cached: Path, where: str, file: str, entry: FileEntry, cores: int | None
    ) -> bool:
        if not cached.exists():
            return False
        try:
            self._verifier.check(cached, where, file, entry, cores)
        except CorruptVersionError as error:
            _log.warning("store.cache.corrupt", path=str(cached), error=error.detail)
            return False
        return True

    def _fetch(self, blob: str, cached: Path, where: str, file: str, entry: FileEntry) -> None:
        info = self._objects.stat(blob)
        check_size(where, file, entry, None if info is None else info.size)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".part", delete=False) as part:
            try:
                check_chunks(
                    where,
                    file,
                    entry,
                    read=lambda start, length: self._objects.read_range(blob, start, length),
                    sink=lambda start, piece: _write_at(part.fileno(), start, piece),
                )
                os.fsync(part.fileno())
                Path(part.name).replace(cached)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        sync_folder(cached.parent)


def _write_at(descriptor: int, start: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
