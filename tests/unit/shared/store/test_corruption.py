"""Every way to damage a stored byte is noticed before the byte is served."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gmem_shared.errors import CorruptVersionError, GmemError, UnsupportedVersionError
from gmem_shared.store import Repository, Store, Version
from gmem_shared.store.backends import connect
from gmem_shared.store.canonical import digest_of, to_json
from gmem_shared.store.layout import Layout
from gmem_shared.store.objects import Objects
from tests.support.stores import contents

CHUNK = 16
FILES = {"long.bin": bytes(range(40)), "short.bin": b"seven b"}
LAYOUT = Layout("models", "digits")


@pytest.fixture
def objects(url: str) -> Objects:
    return connect(url)


@pytest.fixture
def version(url: str, tmp_path: Path) -> Version:
    repository = Store.from_url(url, tmp_path / "cache").repository("models", "digits")
    published = repository.publish(FILES, metadata={"k": "v"}, chunk_size=CHUNK)
    repository.set_alias("production", published)
    return published


@pytest.fixture
def readers(url: str, tmp_path: Path) -> Iterator[Repository]:
    """Readers that have cached nothing."""
    return (
        Store.from_url(url, tmp_path / f"cache-{number}").repository("models", "digits")
        for number in itertools.count()
    )


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    for position in range(len(data)):
        yield position, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("file", FILES)
def test_every_flipped_byte_of_a_file_is_refused_by_file_and_chunk(
    objects: Objects, version: Version, readers: Iterator[Repository], file: str
) -> None:
    blob = LAYOUT.blob(version.manifest.files[file].sha256)
    for position, damaged in flips(FILES[file]):
        objects.write(blob, damaged)
        for read in (Repository.open, Repository.verify):
            with pytest.raises(
                CorruptVersionError, match=f"file '{file}', chunk {position // CHUNK} "
            ):
                read(next(readers), version)
    objects.write(blob, FILES[file])
    assert contents(next(readers), version) == FILES


def test_a_reader_that_verified_a_local_file_notices_a_later_flip(tmp_path: Path) -> None:
    store = Store.from_url(str(tmp_path / "store"), tmp_path / "cache")
    repository = store.repository("models", "digits")
    version = repository.publish(FILES, chunk_size=CHUNK)
    path = repository.open(version).path("long.bin")
    for position, damaged in flips(FILES["long.bin"]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptVersionError, match=f"'long.bin', chunk {position // CHUNK} "):
            repository.open(version)
        path.write_bytes(FILES["long.bin"])
        assert repository.open(version).path("long.bin") == path


def test_every_truncation_is_refused_by_file_and_chunk(
    objects: Objects, version: Version, readers: Iterator[Repository]
) -> None:
    data = FILES["long.bin"]
    blob = LAYOUT.blob(version.manifest.files["long.bin"].sha256)
    for size in range(len(data)):
        objects.write(blob, data[:size])
        for read in (Repository.open, Repository.verify):
            with pytest.raises(
                CorruptVersionError,
                match=f"'long.bin', chunk {size // CHUNK} .*expected 40 bytes, found {size}",
            ):
                read(next(readers), version)


def test_an_extended_and_a_deleted_file_are_refused(
    objects: Objects, version: Version, readers: Iterator[Repository]
) -> None:
    blob = LAYOUT.blob(version.manifest.files["long.bin"].sha256)
    for read in (Repository.open, Repository.verify):
        objects.write(blob, FILES["long.bin"] + b"\0")
        with pytest.raises(CorruptVersionError, match=r"'long.bin', chunk 2 .* found 41"):
            read(next(readers), version)
        objects.delete([blob])
        with pytest.raises(CorruptVersionError, match=r"'long.bin', chunk 0 .* is missing"):
            read(next(readers), version)


def test_every_flipped_byte_of_a_manifest_is_refused(
    objects: Objects, version: Version, readers: Iterator[Repository]
) -> None:
    path = LAYOUT.manifest(version.digest)
    for _, damaged in flips(objects.read(path)):
        objects.write(path, damaged)
        reader = next(readers)
        with pytest.raises(CorruptVersionError, match=re.escape(path)):
            reader.open(reader.latest())
    objects.delete([path])
    reader = next(readers)
    with pytest.raises(CorruptVersionError, match=f"{re.escape(path)} is missing"):
        reader.open(reader.latest())


@pytest.mark.parametrize("record", ["log", "aliases/production"])
def test_every_flipped_byte_of_a_record_is_refused(
    objects: Objects, version: Version, readers: Iterator[Repository], record: str
) -> None:
    (info,) = objects.scan(f"models/digits/{record}")
    original = objects.read(info.path)
    for _, damaged in flips(original):
        objects.write(info.path, damaged)
        with pytest.raises(CorruptVersionError, match=re.escape(info.path)):
            next(readers).resolve("production")
    objects.write(info.path, original)
    assert next(readers).resolve("production") == version


def test_a_record_under_another_number_is_refused(
    objects: Objects, version: Version, readers: Iterator[Repository]
) -> None:
    data = objects.read("models/digits/log/00000000000000000001.json")
    objects.write("models/digits/log/00000000000000000002.json", data)
    with pytest.raises(CorruptVersionError, match=r"02\.json"):
        next(readers).latest()


def forge(objects: Objects, change: dict[str, object]) -> str:
    """Store a manifest with a right digest but other content; return its digest."""
    (info,) = objects.scan("models/digits/manifests")
    data = to_json(json.loads(objects.read(info.path)) | change)
    objects.write(LAYOUT.manifest(digest_of(data)), data)
    return digest_of(data)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"schema_version": 2}, UnsupportedVersionError, "schema_version 2, this release reads 1"),
        ({"files": {"../x": {}}}, CorruptVersionError, "cannot be read"),
        ({"name": "other"}, CorruptVersionError, "models/other"),
        ({"surprise": 1}, CorruptVersionError, "surprise"),
    ],
)
def test_a_forged_manifest_is_refused(
    objects: Objects,
    version: Version,
    readers: Iterator[Repository],
    change: dict[str, object],
    error: type[GmemError],
    message: str,
) -> None:
    reader = next(readers)
    with pytest.raises(error, match=message):
        reader.open(replace(version, digest=forge(objects, change)))
