from __future__ import annotations

import pytest

from gmem_shared.errors import (
    ConflictError,
    InvalidRequestError,
    UnknownAliasError,
    UnknownBankError,
    UnknownModelError,
    UnknownVersionError,
)
from gmem_shared.store import Repository, Store
from gmem_shared.store.backends import connect
from gmem_shared.types import Kind, VersionRef


def test_every_selector_finds_its_version(repository: Repository) -> None:
    first, second = (repository.publish({"data": data}) for data in (b"one", b"two"))
    repository.set_alias("production", first)
    for selector in ("production", 1, "1", first.digest, first.digest[:20]):
        assert repository.resolve(selector) == first
    assert repository.latest() == second
    assert repository.versions() == [first, second]
    assert second.ref == VersionRef("digits", 2, second.digest)


def test_a_digest_published_twice_resolves_to_the_newest(repository: Repository) -> None:
    first, second = (repository.publish({"data": b"same"}) for _ in range(2))
    assert first.digest == second.digest
    assert repository.resolve(first.digest).seq == 2


@pytest.mark.parametrize(
    "selector", [0, 2, "sha256-000000", "sha256-", "sha256-xyz", "¼", "9" * 30, "9" * 5000]
)
def test_an_unknown_version_is_refused(repository: Repository, selector: str | int) -> None:
    repository.publish({"data": b"one"})
    with pytest.raises(UnknownVersionError, match="it has 1 to 1"):
        repository.resolve(selector)


def test_an_unknown_alias_is_refused(repository: Repository) -> None:
    repository.publish({"data": b"one"})
    with pytest.raises(UnknownAliasError):
        repository.resolve("canary")


def test_a_prefix_of_several_digests_is_refused(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gmem_shared.store.repository.digest_of", lambda data: f"sha256-{'a' * 60}{len(data):04x}"
    )
    repository.publish({"data": b"1"})
    repository.publish({"data": b"1", "more": b"2"})
    with pytest.raises(ConflictError, match="give more digits"):
        repository.resolve("sha256-aaaaaaa")


@pytest.mark.parametrize(
    ("kind", "error"), [("banks", UnknownBankError), ("models", UnknownModelError)]
)
def test_what_was_never_published_is_unknown(
    store: Store, kind: Kind, error: type[Exception]
) -> None:
    repository = store.repository(kind, "nothing")
    assert repository.versions() == []
    for selector in ("production", 1, "sha256-000000"):
        with pytest.raises(error):
            repository.resolve(selector)
    with pytest.raises(error):
        repository.latest()


def test_names_lists_what_has_a_version(store: Store, url: str) -> None:
    store.repository("banks", "b").publish({"data": b""})
    store.repository("banks", "a").publish({"data": b""})
    connect(url).write("banks/lost+found/log/1", b"not ours")
    assert store.names("banks") == ["a", "b"]
    assert store.names("models") == []


@pytest.mark.parametrize(("kind", "name"), [("other", "x"), ("banks", "../x"), ("banks", "Ä")])
def test_a_name_that_is_no_folder_is_refused(store: Store, kind: Kind, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected banks/<name>"):
        store.repository(kind, name)
