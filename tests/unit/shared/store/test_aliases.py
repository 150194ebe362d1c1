from __future__ import annotations

from pathlib import Path

import pytest

from gmem_shared.errors import (
    AliasConflictError,
    InvalidRequestError,
    UnknownAliasError,
    UnknownVersionError,
)
from gmem_shared.store import Repository, Store
from gmem_shared.store.backends import connect
from tests.support.stores import PUBLISHERS, Crash, InterruptedObjects, crash, race


@pytest.fixture
def repository(store: Store) -> Repository:
    repository = store.repository("models", "raced")
    for payload in (b"one", b"two", b"three"):
        repository.publish({"data": payload})
    return repository


def targets(repository: Repository, alias: str = "production") -> list[int]:
    return [record.seq for record in repository.alias_history(alias)]


def test_an_alias_names_the_version_it_was_set_to(repository: Repository) -> None:
    record = repository.set_alias("production", 2, reason="better")
    assert (record.generation, record.seq, record.reason) == (1, 2, "better")
    assert repository.resolve("production").seq == 2
    assert repository.aliases() == {"production": record}
    assert repository.alias("production") == record


def test_another_reader_sees_the_alias_move(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    reader = Store.from_url(url, tmp_path / "other").repository("models", "raced")
    for seq in (1, 3, 2):
        repository.set_alias("production", seq)
        assert reader.alias("production").seq == seq


def test_repeated_rollback_walks_back_not_to_and_fro(repository: Repository) -> None:
    for seq in (1, 2, 3):
        repository.set_alias("production", seq)
    assert repository.rollback("production", "bad").reason == "bad"
    repository.rollback("production")
    assert targets(repository) == [1, 2, 3, 2, 1]
    with pytest.raises(AliasConflictError, match="nothing to roll back to"):
        repository.rollback("production")
    repository.set_alias("production", 3)
    assert repository.rollback("production").seq == 1


def test_rollback_skips_moves_to_the_same_version(repository: Repository) -> None:
    for seq in (1, 2, 2, 2):
        repository.set_alias("production", seq)
    assert repository.rollback("production").seq == 1


def test_history_keeps_every_move(repository: Repository) -> None:
    repository.set_alias("production", 1)
    repository.set_alias("canary", 3)
    repository.set_alias("production", 2)
    repository.rollback("production")
    assert targets(repository) == [1, 2, 1]
    assert targets(repository, "canary") == [3]
    assert [record.generation for record in repository.alias_history("production")] == [1, 2, 3]


def test_an_unexpected_generation_is_a_conflict(repository: Repository) -> None:
    repository.set_alias("production", 1, expected_generation=0)
    with pytest.raises(AliasConflictError, match="generation 0, found 1"):
        repository.set_alias("production", 2, expected_generation=0)
    assert repository.set_alias("production", 2, expected_generation=1).generation == 2


def test_racing_moves_are_all_recorded(repository: Repository, url: str, tmp_path: Path) -> None:
    stores = [Store.from_url(url, tmp_path / "other") for _ in range(PUBLISHERS)]
    records = race(stores, lambda repo, number: repo.set_alias("production", 1 + number % 3))
    history = repository.alias_history("production")
    assert sorted(records, key=lambda record: record.generation) == history
    assert [record.generation for record in history] == list(range(1, PUBLISHERS + 1))


@pytest.mark.parametrize("name", ["", "3", "sha256-abc", "a/b", "../x", "-", "ü"])
def test_a_name_that_could_be_something_else_is_refused(repository: Repository, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected an alias"):
        repository.set_alias(name, 1)


def test_unknown_alias_and_version_say_what_there_is(repository: Repository) -> None:
    repository.set_alias("production", 1)
    with pytest.raises(UnknownAliasError, match=r"'canary', it has .*production"):
        repository.alias("canary")
    with pytest.raises(UnknownVersionError, match="found 7: it has 1 to 3"):
        repository.set_alias("production", 7)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_move_killed_at_any_step_happened_or_did_not(
    repository: Repository, url: str, tmp_path: Path, after: bool
) -> None:
    repository.set_alias("production", 1)
    killed = 0
    while True:
        expected = targets(repository)
        interrupted = InterruptedObjects(connect(url), killed, crash, after=after)
        try:
            Store(interrupted, tmp_path / "cache").repository("models", "raced").set_alias(
                "production", 2
            )
        except Crash:
            killed += 1
        else:
            break
        assert targets(repository) in (expected, [*expected, 2])
    assert killed > 3
