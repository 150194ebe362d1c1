from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gmem_shared.errors import CorruptVersionError
from gmem_shared.store import FileEntry
from gmem_shared.store.verify import FileVerifier

CONTENT = bytes(range(50))
ENTRY = FileEntry.of(CONTENT, chunk_size=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Starts of the pieces that were read from the disk."""
    starts: list[int] = []
    pread = os.pread

    def recorded(descriptor: int, length: int, start: int) -> Any:
        starts.append(start)
        return pread(descriptor, length, start)

    monkeypatch.setattr(os, "pread", recorded)
    return starts


def check(verifier: FileVerifier, path: Path) -> None:
    verifier.check(path, "digits@1", "file", ENTRY)


def test_every_chunk_is_read(path: Path, reads: list[int]) -> None:
    check(FileVerifier(), path)
    assert sorted(reads) == [0, 20, 40]


def test_a_file_untouched_for_long_is_read_once(
    path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = FileVerifier()
    now = path.stat().st_ctime_ns + 2_000_000_001
    monkeypatch.setattr("gmem_shared.store.verify.time.time_ns", lambda: now)
    check(verifier, path)
    check(verifier, path)
    assert len(reads) == 3


def test_a_file_touched_a_moment_ago_is_read_again(path: Path, reads: list[int]) -> None:
    verifier = FileVerifier()
    check(verifier, path)
    check(verifier, path)
    assert len(reads) == 6


def test_a_replaced_file_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = FileVerifier()
    stat = path.stat()
    monkeypatch.setattr(
        "gmem_shared.store.verify.time.time_ns", lambda: stat.st_ctime_ns + 2_000_000_001
    )
    check(verifier, path)
    replacement = path.with_name("replacement")
    replacement.write_bytes(CONTENT[::-1])
    os.utime(replacement, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    replacement.replace(path)
    with pytest.raises(CorruptVersionError, match="file 'file', chunk 0 "):
        check(verifier, path)
