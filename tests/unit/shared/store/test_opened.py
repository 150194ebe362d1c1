from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from gmem_shared.errors import CorruptVersionError, NotFoundError, StorageError
from gmem_shared.store import Repository, Store
from gmem_shared.store.backends import connect
from tests.support.stores import Crash, InterruptedObjects, contents, crash

FILES = {"data": bytes(range(100)), "config.json": b'{"a":1}', "empty": b""}


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


def cached(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_local_store_is_read_in_place(tmp_path: Path) -> None:
    store = Store.from_url(f"file://{tmp_path}/store", tmp_path / "cache")
    repository = store.repository("models", "digits")
    opened = repository.open(repository.publish(FILES))
    assert opened.path("data").is_relative_to(tmp_path / "store")
    assert not (tmp_path / "cache").exists()


def test_a_remote_version_is_fetched_once(repository: Repository, tmp_path: Path) -> None:
    version = repository.publish(FILES, chunk_size=7)
    paths = repository.open(version).paths
    stamps = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    again = repository.open(version).paths
    assert {name: path.stat().st_mtime_ns for name, path in again.items()} == stamps
    assert sorted(cached(tmp_path / "cache")) == sorted(paths.values())


def test_many_threads_open_one_version(repository: Repository, tmp_path: Path) -> None:
    version = repository.publish(FILES, chunk_size=7)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: contents(repository, version), range(16)))
    assert found == [FILES] * 16
    assert len(cached(tmp_path / "cache")) == len(FILES)


@pytest.mark.parametrize("damage", [b"", b"\1" + FILES["data"][1:], FILES["data"] + b"x"])
def test_a_damaged_copy_is_fetched_again(repository: Repository, damage: bytes) -> None:
    version = repository.publish(FILES)
    repository.open(version).path("data").write_bytes(damage)
    assert contents(repository, version) == FILES


def test_a_damaged_source_leaves_nothing_in_the_cache(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    version = repository.publish({"data": FILES["data"]}, chunk_size=7)
    (info,) = connect(url).scan("banks/digits/blobs")
    connect(url).write(info.path, FILES["data"][:-1] + b"x")
    with pytest.raises(CorruptVersionError, match="'data', chunk 14 "):
        repository.open(version)
    assert cached(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    repository: Repository, tmp_path: Path
) -> None:
    version = repository.publish(FILES)
    (tmp_path / "cache").write_bytes(b"no folder")
    with pytest.raises(StorageError, match=r"digits@1: file .* check the permissions"):
        repository.open(version)


def test_an_open_killed_at_any_step_harms_nothing(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    version = repository.publish(FILES, chunk_size=40)
    killed = 0
    while True:
        cache = tmp_path / f"killed-{killed}"
        interrupted = InterruptedObjects(connect(url), killed, crash)
        try:
            reader = Store(interrupted, cache).repository("banks", "digits")
            reader.open(reader.resolve(1))
        except Crash:
            killed += 1
        else:
            break
        survivor = Store.from_url(url, cache).repository("banks", "digits")
        assert contents(survivor, version) == FILES
    assert killed > 5


def test_a_file_that_is_not_there_is_named(repository: Repository) -> None:
    opened = repository.open(repository.publish(FILES))
    with pytest.raises(NotFoundError, match=r"'other' in digits@1, found \['config.json'"):
        opened.path("other")


def test_json_files_are_parsed(repository: Repository) -> None:
    opened = repository.open(repository.publish(FILES))
    assert opened.read_json("config.json") == {"a": 1}
    with pytest.raises(CorruptVersionError, match="file 'data' is not JSON"):
        opened.read_json("data")
