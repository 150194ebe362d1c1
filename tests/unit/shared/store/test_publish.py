from __future__ import annotations

from pathlib import Path

import pytest

from gmem_shared.errors import InvalidRequestError, PublishConflictError, StorageError
from gmem_shared.store import Repository, Store
from gmem_shared.store.backends import connect
from tests.support.stores import (
    Crash,
    InterruptedObjects,
    check_one_heir,
    check_one_publish_id,
    check_racing_publishers,
    contents,
    crash,
)

FILES = {"a.bin": b"first", "b.bin": b"second", "empty": b""}


def test_a_published_version_is_read_back(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 100)
    version = repository.publish(
        {"big": tmp_path / "big", "small": b"x"}, metadata={"n": [1, 2.5]}, message="why"
    )
    assert (version.seq, version.parent, version.message) == (1, 0, "why")
    assert version.manifest.metadata == {"n": [1, 2.5]}
    assert contents(repository, version) == {"big": bytes(range(256)) * 100, "small": b"x"}


def test_equal_inputs_have_an_equal_digest(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(FILES["a.bin"])
    digests = {
        Store.from_url(target, tmp_path / "cache")
        .repository("banks", "digits")
        .publish(files, metadata=metadata, message=target)
        .digest
        for target, files, metadata in [
            (url, FILES, {"x": 1, "y": 2}),
            ("memory://other", FILES | {"a.bin": tmp_path / "a.bin"}, {"y": 2, "x": 1}),
        ]
    }
    assert len(digests) == 1


def test_equal_content_is_stored_once(repository: Repository, url: str) -> None:
    repository.publish({"one": b"same", "two": b"same"})
    repository.publish({"three": b"same"})
    assert len(connect(url).scan("banks/digits/blobs")) == 1


@pytest.mark.parametrize("folder", ["blobs", "manifests"])
def test_publishing_again_repairs_what_was_damaged(
    repository: Repository, url: str, folder: str
) -> None:
    repository.publish(FILES)
    for info in connect(url).scan(f"banks/digits/{folder}"):
        connect(url).write(info.path, b"x" * info.size)
    again = repository.publish(FILES)
    assert contents(repository, again) == FILES


def test_reuse_takes_over_a_file_without_its_content(repository: Repository) -> None:
    old = repository.publish(FILES)
    entries = old.manifest.files
    new = repository.publish(
        {"b.bin": b"changed"}, reuse={name: entries[name] for name in ("a.bin", "empty")}
    )
    assert contents(repository, new) == FILES | {"b.bin": b"changed"}
    assert contents(repository, old) == FILES


def test_reuse_of_a_missing_file_is_refused(repository: Repository, url: str) -> None:
    old = repository.publish(FILES)
    connect(url).delete([info.path for info in connect(url).scan("banks/digits/blobs")])
    with pytest.raises(StorageError, match=r"reused file 'a\.bin'"):
        repository.publish({}, reuse={"a.bin": old.manifest.files["a.bin"]})
    assert repository.versions() == [old]


def test_expected_parent_refuses_to_publish_over_somebody_else(repository: Repository) -> None:
    repository.publish(FILES, expected_parent=0)
    with pytest.raises(PublishConflictError, match=r"expected version 0 .* found 1"):
        repository.publish({"x": b"x"}, expected_parent=0)
    assert repository.publish({"x": b"x"}, expected_parent=1).seq == 2


def test_publish_id_is_recognised_however_much_later(repository: Repository) -> None:
    first = repository.publish(FILES, publish_id="job", expected_parent=0)
    repository.publish({"x": b"x"})
    assert repository.publish(FILES, publish_id="job", expected_parent=0) == first
    assert len(repository.versions()) == 2


def test_publish_id_is_refused_for_other_content(repository: Repository) -> None:
    repository.publish(FILES, publish_id="job")
    with pytest.raises(PublishConflictError, match="use a new publish_id"):
        repository.publish({"x": b"x"}, publish_id="job")


@pytest.mark.parametrize(
    ("files", "metadata"),
    [
        ({}, {}),
        ({"../up": b""}, {}),
        ({"a/b": b""}, {}),
        ({"/etc/passwd": b""}, {}),
        ({"": b""}, {}),
        ({".hidden": b""}, {}),
        ({"a": Path("/does/not/exist")}, {}),
        ({"a": b""}, {"nan": float("nan")}),
        ({"a": b""}, {"object": object()}),
    ],
)
def test_what_cannot_be_published_is_refused(
    repository: Repository, files: dict[str, bytes], metadata: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequestError):
        repository.publish(files, metadata=metadata)
    assert repository.versions() == []


def test_racing_publishers_all_get_a_version(url: str, tmp_path: Path) -> None:
    check_racing_publishers(url, tmp_path)


def test_one_of_many_publishers_inherits_a_parent(url: str, tmp_path: Path) -> None:
    check_one_heir(url, tmp_path)


def test_racing_publishers_of_one_id_publish_once(url: str, tmp_path: Path) -> None:
    check_one_publish_id(url, tmp_path)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_publish_killed_at_any_step_leaves_a_valid_store(
    url: str, tmp_path: Path, after: bool
) -> None:
    """Kill at call 0, 1, 2 … of the object store until the publish gets through unharmed."""
    killed = 0
    while True:
        name = f"killed-{killed}"
        healthy = Store.from_url(url, tmp_path / "cache").repository("models", name)
        before = healthy.publish({"a.bin": b"before"})
        interrupted = InterruptedObjects(connect(url), killed, crash, after=after)
        try:
            Store(interrupted, tmp_path / "cache").repository("models", name).publish(
                FILES, publish_id="job"
            )
        except Crash:
            killed += 1
        else:
            break
        for version in healthy.versions():
            healthy.verify(version)
        retried = healthy.publish(FILES, publish_id="job")
        assert healthy.versions() == [before, retried]
        assert contents(healthy, retried) == FILES
    assert killed > 10
