from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import obstore.store
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from gmem_shared.errors import InvalidRequestError, NotFoundError, StorageError
from gmem_shared.store.backends import ObstoreObjects, connect
from gmem_shared.store.objects import Objects
from gmem_shared.store.probe import check_create_only

_NOTICED_SECONDS = 0.2
"""For a tenth of a second obstore takes credentials as they are."""


@pytest.fixture
def objects(url: str) -> Objects:
    return connect(url)


class FlakyStore:
    """A store of obstore that fails so many times, before or after the effect, then works."""

    def __init__(self, failures: int, error: Exception, *, after: bool = False) -> None:
        self._store = obstore.store.MemoryStore()
        self.failures = failures
        self._error = error
        self._after = after

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.failures -= 1
            if self.failures >= 0 and not self._after:
                raise self._error
            result = getattr(self._store, name)(*args, **kwargs)
            if self.failures >= 0:
                raise self._error
            return result

        return call


def test_the_first_creator_wins(objects: Objects) -> None:
    assert objects.create("a/b", b"mine")
    assert not objects.create("a/b", b"theirs")
    assert objects.read("a/b") == b"mine"


def test_creating_the_same_bytes_again_succeeds(objects: Objects) -> None:
    assert objects.create("a/b", b"mine")
    assert objects.create("a/b", b"mine")


def test_write_replaces(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    objects.write("a", b"bytes")
    objects.write("a", tmp_path / "file")
    assert objects.read("a") == b"from a file"
    assert objects.read_range("a", 5, 1) == b"a"
    assert objects.read_range("a", 7, 100) == b"file"


def test_scan_is_sorted_recursive_and_starts_after(objects: Objects) -> None:
    for path in ("x/2", "x/10", "x/sub/1", "xy/1"):
        objects.write(path, b"12")
    assert [info.path for info in objects.scan("x")] == ["x/10", "x/2", "x/sub/1"]
    assert [info.path for info in objects.scan("x", after="x/10")] == ["x/2", "x/sub/1"]
    assert objects.folders("x") == ["sub"]
    assert objects.scan("nothing") == [] == objects.folders("nothing")


def test_stat_describes_what_exists(objects: Objects) -> None:
    objects.write("a", b"123")
    info = objects.stat("a")
    assert info == objects.scan("")[0]
    assert info
    assert (info.size, info.modified.tzinfo is not None) == (3, True)
    assert objects.stat("b") is None


def test_delete_ignores_what_is_absent(objects: Objects) -> None:
    objects.write("a", b"")
    objects.write("c", b"")
    objects.delete(["a", "b", "c"])
    assert objects.scan("") == []


@pytest.mark.parametrize("read", ["read", "read_range"])
def test_a_missing_object_is_not_found(objects: Objects, read: str) -> None:
    with pytest.raises(NotFoundError, match="'x/missing'"):
        getattr(objects, read)("x/missing", *((0, 1) if read == "read_range" else ()))


def test_a_memory_url_names_one_store_per_process() -> None:
    connect("memory://one").write("a", b"1")
    assert connect("memory://one").read("a") == b"1"
    assert connect("memory://another").stat("a") is None


@pytest.mark.parametrize("url", ["nonsense://x", "s3://", "https://[bad"])
def test_an_unknown_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected a store URL"):
        connect(url)


def test_a_store_of_one_winner_passes_the_check(objects: Objects) -> None:
    check_create_only(objects, "probe")
    assert objects.scan("probe") == []


def test_a_store_that_lets_every_writer_win_is_found_out() -> None:
    class Overwriting(ObstoreObjects):
        def _put_new(self, path: str, data: bytes) -> None:
            self._put(path, data)

    with pytest.raises(StorageError, match="found that 8 were told"):
        check_create_only(Overwriting(obstore.store.MemoryStore()), "probe")


@pytest.mark.parametrize("content", ["", "[default]\naws_access_key_id=a", "[x", "a\nSECRET"])
def test_a_credentials_file_that_is_none_is_refused_without_its_content(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "credentials").write_text(content)
    with pytest.raises(InvalidRequestError, match=r"\[default\]") as refused:
        connect("s3://bucket", tmp_path / "credentials")
    assert "SECRET" not in str(refused.value)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None]]]:
    """The keys and session tokens that requests to ``s3://bucket`` came with."""
    seen: list[tuple[str, str | None]] = []

    class Object(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            signature = self.headers["Authorization"]
            key = signature.partition("Credential=")[2].partition("/")[0]
            seen.append((key, self.headers["X-Amz-Security-Token"]))
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Object) as server:
        Thread(target=server.serve_forever).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-environment")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield seen
        server.shutdown()


def test_a_credentials_file_counts_as_a_whole_and_its_changes_are_noticed(
    tmp_path: Path, bucket: list[tuple[str, str | None]]
) -> None:
    def write(key: str, more: str = "") -> None:
        lines = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n{more}"
        (tmp_path / "credentials").write_text(lines)

    write("first")
    objects = connect("s3://bucket", tmp_path / "credentials")
    objects.stat("a")
    write("second", "aws_session_token = for-a-while\n")
    time.sleep(_NOTICED_SECONDS)
    objects.stat("a")
    assert bucket == [("first", None), ("second", "for-a-while")]


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="expected a folder"):
        connect(str(tmp_path / "file"))


def test_a_failed_local_write_leaves_nothing_behind(tmp_path: Path) -> None:
    objects = connect(str(tmp_path))
    with pytest.raises(StorageError, match="failed to write"):
        objects.write("a/b", tmp_path / "missing")
    assert objects.scan("") == []


def test_every_new_folder_is_synced_where_its_name_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[tuple[Path, str]] = set()

    def sync_folder(folder: Path) -> None:
        synced.update((folder, entry.name) for entry in folder.iterdir())

    monkeypatch.setattr("gmem_shared.store.backends.sync_folder", sync_folder)
    objects = connect(str(tmp_path))
    for path in ("banks/digits/1", "banks/digits/2", "banks/faces/1", "models/digits/1"):
        objects.write(path, b"")
    assert synced == {(entry.parent, entry.name) for entry in tmp_path.rglob("*")}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_passing_failure_is_retried(after: bool) -> None:
    objects = ObstoreObjects(FlakyStore(2, GenericError("down"), after=after))  # type: ignore[arg-type]
    assert objects.create("a", b"1")
    assert objects.read("a") == b"1"


def test_a_lasting_failure_is_a_storage_error() -> None:
    store = FlakyStore(1000, GenericError("down\nDebug source: long"))
    objects = ObstoreObjects(store)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=r"failed to read 'a': down; check the store's"):
        objects.read("a")
    assert store.failures == 1000 - 4


def test_a_denied_request_is_not_retried() -> None:
    store = FlakyStore(1000, PermissionDeniedError("no"))
    objects = ObstoreObjects(store)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="failed to write 'a': no"):
        objects.write("a", b"")
    assert store.failures == 1000 - 1
