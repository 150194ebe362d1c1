from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from gmem_shared.errors import (
    ConflictError,
    CorruptVersionError,
    InvalidRequestError,
    UnknownVersionError,
)
from gmem_shared.store import Repository, Store
from gmem_shared.store.backends import connect
from gmem_shared.store.gc import Retention
from tests.support.stores import ClockedObjects, Crash, FakeClock, InterruptedObjects, contents

DAY = timedelta(days=1)
RETENTION = Retention(versions=1, alias_targets=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def objects(clock: FakeClock) -> ClockedObjects:
    return ClockedObjects(connect(f"memory://{uuid4().hex}"), clock)


@pytest.fixture
def store(objects: ClockedObjects, clock: FakeClock, tmp_path: Path) -> Store:
    return Store(objects, tmp_path, clock)


@pytest.fixture
def repository(store: Store, clock: FakeClock) -> Repository:
    """Four versions that share a blob, one per day, all older than the grace period."""
    repository = store.repository("banks", "digits")
    for number in range(1, 5):
        repository.publish({"shared": b"shared", "own": bytes([number])})
        clock.now += DAY
    clock.now += RETENTION.grace
    return repository


def sequence(repository: Repository) -> list[int]:
    return [version.seq for version in repository.versions()]


def test_only_the_newest_versions_stay(repository: Repository, clock: FakeClock) -> None:
    deleted = repository.collect_garbage(Retention(versions=2), clock.sleep)
    assert sequence(repository) == [3, 4]
    assert [info.path.split("/")[2] for info in deleted] == (
        ["log"] * 2 + ["manifests"] * 2 + ["blobs"] * 2
    )
    for version in repository.versions():
        assert contents(repository, version)["shared"] == b"shared"


def test_alias_targets_stay(repository: Repository, clock: FakeClock) -> None:
    for seq in (1, 2, 3):
        repository.set_alias("production", seq)
    repository.collect_garbage(Retention(versions=1, alias_targets=2), clock.sleep)
    assert sequence(repository) == [2, 3, 4]
    assert [record.seq for record in repository.alias_history("production")] == [1, 2, 3]
    repository.rollback("production")
    with pytest.raises(UnknownVersionError):
        repository.rollback("production")


def test_a_lease_keeps_a_version_until_it_ends(repository: Repository, clock: FakeClock) -> None:
    repository.lease("bank-0", [repository.resolve(1).digest], ttl=DAY)
    repository.lease("bank-1", [repository.resolve(2).digest], ttl=90 * DAY)
    repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [1, 2, 4]
    clock.now += DAY
    repository.release("bank-1")
    repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [4]


def test_renewing_a_lease_replaces_it(repository: Repository, clock: FakeClock) -> None:
    for seq in (1, 2):
        repository.lease("bank-0", [repository.resolve(seq).digest], ttl=DAY)
    repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [2, 4]


def test_nothing_young_is_deleted(store: Store, clock: FakeClock) -> None:
    repository = store.repository("banks", "young")
    for number in range(3):
        repository.publish({"data": bytes([number])})
    clock.now += RETENTION.grace - timedelta(seconds=1)
    assert repository.garbage(RETENTION) == []
    clock.now += timedelta(seconds=1)
    assert len(repository.garbage(RETENTION)) == 6


def test_a_number_is_never_used_again(repository: Repository, clock: FakeClock) -> None:
    repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [4]
    assert repository.publish({"data": b"new"}).seq == 5
    with pytest.raises(InvalidRequestError, match="at least 1 version"):
        Retention(versions=0)


def test_a_deleted_version_is_unknown_also_where_it_was_cached(
    repository: Repository, clock: FakeClock
) -> None:
    old = repository.resolve(1)
    repository.collect_garbage(RETENTION, clock.sleep)
    for call in (
        lambda: repository.resolve(1),
        lambda: repository.resolve(old.digest),
        lambda: repository.set_alias("production", old),
        lambda: repository.lease("bank-0", [old.digest], DAY),
    ):
        with pytest.raises(UnknownVersionError):
            call()


def test_deleted_content_can_be_published_again(repository: Repository, clock: FakeClock) -> None:
    files = {"shared": b"shared", "own": b"\1"}
    digest = repository.resolve(1).digest
    repository.collect_garbage(RETENTION, clock.sleep)
    again = repository.publish(files)
    assert (again.seq, again.digest) == (5, digest)
    assert contents(repository, again) == files


def test_what_is_announced_cannot_be_made_live(repository: Repository, clock: FakeClock) -> None:
    doomed = repository.resolve(1)

    def revive(seconds: float) -> None:
        for call in (
            lambda: repository.set_alias("production", doomed),
            lambda: repository.lease("bank-0", [doomed.digest], DAY),
            lambda: repository.publish({"shared": b"shared", "own": b"\1"}),
            lambda: repository.publish({}, reuse={"own": doomed.manifest.files["own"]}),
        ):
            with pytest.raises(ConflictError, match="about to delete") as caught:
                call()
            assert caught.value.retry_after_seconds == pytest.approx(3600 + 2 * 300)
        clock.sleep(seconds)

    repository.collect_garbage(RETENTION, revive)
    assert sequence(repository) == [4]
    assert repository.aliases() == {}


def test_what_became_live_before_the_announcement_stays(
    repository: Repository, objects: ClockedObjects, store: Store, clock: FakeClock, tmp_path: Path
) -> None:
    """An alias that is set between the first look and the announcement."""
    calls = InterruptedObjects(objects, 1, lambda: None)
    Store(calls, tmp_path, clock).repository("banks", "digits").garbage(RETENTION)
    interrupted = InterruptedObjects(
        objects, calls.calls, lambda: repository.set_alias("production", 1) and None
    )
    collector = Store(interrupted, tmp_path, clock).repository("banks", "digits")
    collector.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [1, 4]
    repository.verify(repository.resolve("production"))


def test_what_became_garbage_after_the_announcement_stays(
    repository: Repository, clock: FakeClock
) -> None:
    """Nobody was warned of it, so it has to wait for the next collection."""
    repository.lease("bank-0", [repository.resolve(1).digest], ttl=RETENTION.settle)
    repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [1, 4]
    repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [4]


def test_only_one_collection_runs(repository: Repository, clock: FakeClock) -> None:
    def again(seconds: float) -> None:
        with pytest.raises(ConflictError, match="another garbage collection"):
            repository.collect_garbage(RETENTION, clock.sleep)
        clock.sleep(seconds)

    assert repository.collect_garbage(RETENTION, again)
    assert repository.collect_garbage(RETENTION, clock.sleep) == []


def test_a_slow_collection_leaves_the_rest_to_the_next(
    repository: Repository, clock: FakeClock
) -> None:
    late = RETENTION.window.total_seconds()
    assert repository.collect_garbage(RETENTION, lambda s: clock.sleep(s + late)) == []
    assert repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [4]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_collection_killed_at_any_step_is_finished_by_the_next(
    tmp_path: Path, after: bool
) -> None:
    killed = 0
    while True:
        clock = FakeClock()
        objects = ClockedObjects(connect(f"memory://{uuid4().hex}"), clock)
        healthy = Store(objects, tmp_path, clock).repository("banks", "digits")
        for number in range(4):
            healthy.publish({"shared": b"shared", "own": bytes([number])})
        healthy.set_alias("production", 2)
        clock.now += RETENTION.grace

        def die() -> None:
            raise Crash

        interrupted = InterruptedObjects(objects, killed, die, after=after)
        try:
            Store(interrupted, tmp_path, clock).repository("banks", "digits").collect_garbage(
                RETENTION, clock.sleep
            )
        except Crash:
            killed += 1
        else:
            break
        for version in healthy.versions():
            healthy.verify(version)
        clock.now += timedelta(hours=2)
        healthy.collect_garbage(RETENTION, clock.sleep)
        assert healthy.garbage(RETENTION) == []
        assert sequence(healthy) == [2, 4]
        assert len(objects.scan("banks/digits/blobs")) == 3
    assert killed > 20


def test_an_unreadable_root_stops_the_collection(
    repository: Repository, objects: ClockedObjects, store: Store, clock: FakeClock
) -> None:
    before = objects.scan("banks/digits")
    objects.delete([f"banks/digits/manifests/{repository.resolve(4).digest}.json"])
    with pytest.raises(CorruptVersionError, match="is missing"):
        store.repository("banks", "digits").collect_garbage(RETENTION, clock.sleep)
    assert len(objects.scan("banks/digits")) == len(before) - 1


def test_leftovers_of_a_killed_local_write_are_collected(tmp_path: Path, clock: FakeClock) -> None:
    store = Store.from_url(str(tmp_path), tmp_path / "cache", clock)
    repository = store.repository("banks", "digits")
    version = repository.publish({"data": b"1"})
    blob = repository.open(version).path("data")
    leftover = blob.with_name(f"{blob.name}.0123.part")
    leftover.write_bytes(b"hal")
    clock.now = version.published_at.replace(year=3000)
    assert [info.path for info in repository.collect_garbage(RETENTION, clock.sleep)] == [
        str(leftover.relative_to(tmp_path))
    ]
    assert contents(repository, version) == {"data": b"1"}


def test_a_lease_being_written_does_not_stop_the_collection(
    repository: Repository, objects: ClockedObjects, clock: FakeClock
) -> None:
    held = repository.resolve(2)
    repository.lease("bank-0", [held.digest], DAY)
    objects.write("banks/digits/leases/bank-0.json.0123.part", b'{"dig')
    assert repository.collect_garbage(RETENTION, clock.sleep)
    assert sequence(repository) == [2, 4]


def test_a_lease_released_during_the_look_does_not_stop_the_collection(
    repository: Repository, objects: ClockedObjects, clock: FakeClock, tmp_path: Path
) -> None:
    repository.lease("bank-0", [repository.resolve(2).digest], DAY)
    released = InterruptedObjects(objects, 0, lambda: repository.release("bank-0"), method="read")
    garbage = Store(released, tmp_path, clock).repository("banks", "digits").garbage(RETENTION)
    assert garbage


def test_foreign_objects_are_left_alone(
    repository: Repository, objects: ClockedObjects, clock: FakeClock
) -> None:
    objects.write("banks/digits/README", b"mine")
    clock.now += 2 * RETENTION.grace
    repository.collect_garbage(RETENTION, clock.sleep)
    assert objects.stat("banks/digits/README")
