"""The store's protocol on S3: moto for every run, a real Ceph RADOS gateway where installed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gmem_shared.errors import CorruptVersionError, InvalidRequestError, StorageError
from gmem_shared.store import Store
from gmem_shared.store.backends import connect
from gmem_shared.store.gc import Retention
from tests.support.rgw import rados_gateway
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, bucket, moto_server
from tests.support.stores import (
    Crash,
    InterruptedObjects,
    check_one_heir,
    check_one_publish_id,
    check_racing_publishers,
    contents,
    crash,
)

CEPH = pytest.param("ceph", marks=pytest.mark.s3)


@pytest.fixture(scope="module", params=["moto", CEPH])
def endpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    server = (
        moto_server() if request.param == "moto" else rados_gateway(tmp_path_factory.mktemp("c"))
    )
    with server as address:
        yield address


@pytest.fixture
def url(endpoint: str) -> Iterator[str]:
    with bucket(endpoint) as address:
        yield address


def test_of_simultaneous_writers_one_wins(url: str, tmp_path: Path) -> None:
    Store.from_url(url, tmp_path).check()


@pytest.mark.parametrize("endpoint", [CEPH], indirect=True)  # moto takes any secret
def test_credentials_come_from_a_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, secret in ((right, SECRET_KEY), (wrong, "an%other")):
        path.write_text(
            f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n"
        )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    connect(url, right).write("a", b"mine")
    assert connect(url, right).read("a") == b"mine"
    with pytest.raises(StorageError):
        connect(url, wrong).read("a")


def test_racing_publishers_all_get_a_version(url: str, tmp_path: Path) -> None:
    check_racing_publishers(url, tmp_path)


def test_one_of_many_publishers_inherits_a_parent(url: str, tmp_path: Path) -> None:
    check_one_heir(url, tmp_path)


def test_racing_publishers_of_one_id_publish_once(url: str, tmp_path: Path) -> None:
    check_one_publish_id(url, tmp_path)


def test_a_large_file_travels_in_parts_and_chunks(url: str, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(13 << 20)
    damaged = bytearray(content)
    damaged[7 << 20] ^= 1
    (tmp_path / "large").write_bytes(content)
    repository = Store.from_url(url, tmp_path / "cache").repository("models", "digits")
    version = repository.publish({"large": tmp_path / "large"}, chunk_size=3 << 20)
    assert len(version.manifest.files["large"].chunks) == 5
    assert contents(repository, version) == {"large": content}
    repository.verify(version)
    (blob,) = connect(url).scan("models/digits/blobs")
    connect(url).write(blob.path, bytes(damaged))
    with pytest.raises(CorruptVersionError, match="file 'large', chunk 2 "):
        repository.verify(version)
    assert contents(repository, version) == {"large": content}  # the verified copy is good
    with pytest.raises(CorruptVersionError, match="file 'large', chunk 2 "):
        Store.from_url(url, tmp_path / "new").repository("models", "digits").open(version)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_publish_killed_at_any_step_leaves_a_valid_store(
    url: str, tmp_path: Path, after: bool
) -> None:
    files = {"a": b"a", "b": b"b"}
    killed = 0
    while True:
        healthy = Store.from_url(url, tmp_path / "cache").repository("models", f"killed-{killed}")
        interrupted = InterruptedObjects(connect(url), killed, crash, after=after)
        try:
            Store(interrupted, tmp_path / "cache").repository("models", f"killed-{killed}").publish(
                files, publish_id="job"
            )
        except Crash:
            killed += 1
        else:
            break
        version = healthy.publish(files, publish_id="job")
        assert healthy.versions() == [version]
        assert contents(healthy, version) == files
    assert killed > 8


def test_aliases_and_garbage_collection(url: str, tmp_path: Path) -> None:
    store = Store.from_url(url, tmp_path, clock=lambda: datetime.now(UTC) + timedelta(days=9))
    repository = store.repository("banks", "digits")
    for number in range(4):
        repository.publish({"shared": b"shared", "own": bytes([number])})
    for seq in (1, 2):
        repository.set_alias("production", seq)
    assert repository.rollback("production").seq == 1
    assert store.names("banks") == ["digits"]
    retention = Retention(versions=1, alias_targets=1, settle=timedelta(0))
    repository.collect_garbage(retention, lambda _: None)
    assert [version.seq for version in repository.versions()] == [1, 4]
    for version in repository.versions():
        repository.verify(version)
    assert {info.path.split("/")[2] for info in repository.garbage(retention)} == {"gc"}


@pytest.mark.parametrize("endpoint", [CEPH], indirect=True)  # moto checks no credentials
def test_wrong_credentials_are_a_storage_error(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="failed to scan"):
        Store.from_url(url, tmp_path).repository("models", "digits").versions()


def test_a_bucket_that_does_not_exist_is_named(url: str, tmp_path: Path) -> None:
    store = Store.from_url(f"{url.partition('/some')[0]}-missing/x", tmp_path)
    with pytest.raises((StorageError, InvalidRequestError), match="models/digits"):
        store.repository("models", "digits").publish({"a": b""})
