"""Chunk verification: no byte of a version is served before its chunk's digest was checked."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gmem_shared.errors import CorruptVersionError
from gmem_shared.store.manifest import FileEntry
from gmem_shared.store.objects import Objects

ReadRange = Callable[[int, int], bytes]
"""(start, length) to the bytes there; fewer at the end of the file."""
Sink = Callable[[int, bytes], None]
"""Receives (start, bytes), from several threads."""

_PIECE = 8 << 20
_RACY_NS = 2_000_000_000


def corrupt(where: str, file: str, chunk: int, found: str) -> CorruptVersionError:
    """Describe a difference from what was published."""
    return CorruptVersionError(
        f"{where}: file {file!r}, chunk {chunk} is not what was published: {found}; "
        f"publish the version again or roll the alias back"
    )


def check_size(where: str, file: str, entry: FileEntry, size: int | None) -> None:
    """Refuse a file that is missing, cut short or extended; raises `CorruptVersionError`."""
    if size is None:
        raise corrupt(where, file, 0, "the file is missing")
    if size != entry.size:
        chunk = min(size, entry.size) // entry.chunk_size
        raise corrupt(where, file, chunk, f"expected {entry.size} bytes, found {size}")


def check_chunks(
    where: str,
    file: str,
    entry: FileEntry,
    read: ReadRange,
    sink: Sink | None = None,
    *,
    cores: int | None = None,
) -> None:
    """Hash every chunk; raises `CorruptVersionError` for the first that differs.

    Args:
        where: Version the file belongs to, for the message.
        file: Name of the file, for the message.
        entry: What was published.
        read: Source of the bytes.
        sink: Receives every piece read, before its chunk is known to be good.
        cores: How many to use, by default all.
    """

    def check(chunk: int) -> None:
        start, left = chunk * entry.chunk_size, entry.chunk_length(chunk)
        digest = hashlib.sha256()
        while left:
            piece = read(start, min(_PIECE, left))
            if not piece:
                raise corrupt(where, file, chunk, f"it ends at byte {start}")
            digest.update(piece)
            if sink is not None:
                sink(start, piece)
            start, left = start + len(piece), left - len(piece)
        if (found := digest.hexdigest()) != entry.chunks[chunk]:
            expected = entry.chunks[chunk]
            raise corrupt(where, file, chunk, f"expected sha256 {expected}, found {found}")

    with ThreadPoolExecutor(cores or os.cpu_count()) as pool:
        for _ in pool.map(check, range(len(entry.chunks))):
            pass


def check_object(objects: Objects, path: str, where: str, file: str, entry: FileEntry) -> None:
    """Verify an object where it lies; raises `CorruptVersionError`."""
    info = objects.stat(path)
    check_size(where, file, entry, None if info is None else info.size)
    check_chunks(where, file, entry, lambda start, length: objects.read_range(path, start, length))


class FileVerifier:
    """Verifies files of this machine, each once per process as long as it stays untouched.

    Untouched means: same device, inode, size, mtime and ctime. Blobs are only ever replaced by
    renaming another file over them, which changes the inode, and no program can set ctime. The
    one gap is a write in the same clock tick as the previous one; so the result is remembered
    only for a file whose last change was at least two seconds before hashing began.
    """

    def __init__(self) -> None:
        self._verified: set[tuple[str, int, int, int, int, int]] = set()

    def check(
        self, path: Path, where: str, file: str, entry: FileEntry, cores: int | None = None
    ) -> None:
        """Verify a file; raises `CorruptVersionError`."""
        try:
            with path.open("rb") as opened:
                self._check(opened.fileno(), where, file, entry, cores)
        except FileNotFoundError:
            check_size(where, file, entry, None)

    def _check(
        self, descriptor: int, where: str, file: str, entry: FileEntry, cores: int | None
    ) -> None:
        now, stat = time.time_ns(), os.fstat(descriptor)
        key = (
            entry.sha256,
            stat.st_dev,
            stat.st_ino,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )
        if key in self._verified:
            return
        check_size(where, file, entry, stat.st_size)
        check_chunks(
            where,
            file,
            entry,
            lambda start, length: os.pread(descriptor, length, start),
            cores=cores,
        )
        if stat.st_ctime_ns < now - _RACY_NS:
            self._verified.add(key)
