"""The port to an object store: the few operations the protocol needs, and their promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says about one object. ``size`` in bytes, ``modified`` with time zone."""

    path: str
    size: int
    modified: datetime


class Objects(Protocol):
    """An object store. Every method may raise `StorageError`; writes are atomic and durable."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a small object unless one exists.

        Returns:
            Whether the object now holds ``data``: true for the winner of a race, and for a
            writer whose earlier identical attempt succeeded although its reply was lost.
        """
        ...

    def write(self, path: str, source: bytes | Path) -> None:
        """Write an object of any size, replacing an existing one."""
        ...

    def write_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        """Write an object of any size that is made as it is written, replacing an existing one.

        What ``pieces`` raises leaves the store as it was.
        """
        ...

    def read(self, path: str) -> bytes:
        """Return an object's bytes; raises `NotFoundError`."""
        ...

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return up to ``length`` > 0 bytes from ``start``; raises `NotFoundError`."""
        ...

    def stat(self, path: str) -> ObjectInfo | None:
        """Describe an object, or return `None` if there is none."""
        ...

    def scan(self, folder: str, after: str = "") -> list[ObjectInfo]:
        """Return all objects below ``folder`` whose path sorts after ``after``, sorted by path."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in ``folder``."""
        ...

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; absent ones are ignored."""
        ...

    def link(self, path: str, seconds: float) -> str | None:
        """Return a URL that lets anybody read an object for a while, or `None`: there are none."""
        ...

    def local_path(self, path: str) -> Path | None:
        """Return where an object lies as a file of this machine, or `None` if it is remote."""
        ...
