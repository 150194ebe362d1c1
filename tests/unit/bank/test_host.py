from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gmem_bank.host import BankHost
from gmem_bank.snapshots import Snapshot, SnapshotCache, open_snapshot
from gmem_shared.bank_format import DRAW, SNIPPETS
from gmem_shared.errors import (
    ConflictError,
    CorruptVersionError,
    GmemError,
    NotReadyError,
    StorageError,
    UnknownAliasError,
    UnknownBankError,
    UnknownVersionError,
    UntrustedVersionError,
)
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Store, Version
from gmem_shared.store.signing import make_keys
from tests.support import banks

WAIT_SECONDS = 30


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make_host(store: Store, registry: CollectorRegistry) -> Iterator[Callable[..., BankHost]]:
    hosts = []

    def make(**changes: Any) -> BankHost:
        arguments = {"poll_seconds": 0.02, "max_open_versions": 1, "holder": "test"} | changes
        hosts.append(BankHost(store, registry=registry, **arguments))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def wait_until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(WAIT_SECONDS * 100):
        if condition():
            return
        tick.wait(0.01)
    pytest.fail("the condition did not come true")


def test_moved_alias_is_followed(store: Store, make_host: Callable[..., BankHost]) -> None:
    first = banks.publish(store)
    host = make_host()
    host.start()
    wait_until(lambda: host.resolve("digits").version == first.ref)
    second = banks.publish(store, **banks.features(seed=1))
    wait_until(lambda: host.resolve("digits").version == second.ref)
    assert host.resolve("digits@1").version == first.ref
    assert host.resolve(f"digits@{first.digest}").version == first.ref


def test_swap_keeps_serving_old_version_until_drained(
    store: Store, make_host: Callable[..., BankHost]
) -> None:
    banks.publish(store)
    host = make_host()
    host.refresh()
    in_flight = host.resolve("digits")
    expected = in_flight.data.vectors.copy()
    for seed in (1, 2, 3):
        banks.publish(store, **banks.features(seed=seed))
        host.refresh()
    assert host.resolve("digits").version.seq == 4
    assert (in_flight.data.vectors == expected).all()

    gone = weakref.ref(in_flight)
    del in_flight
    gc.collect()
    assert gone() is None


def test_memory_stays_flat_over_many_swaps(
    store: Store, registry: CollectorRegistry, make_host: Callable[..., BankHost]
) -> None:
    host = make_host(max_open_versions=2)
    for seed in range(12):
        banks.publish(store, **banks.features(seed=seed))
        host.refresh()
    gc.collect()
    assert registry.get_sample_value("gmem_bank_open_snapshots") == 3
    assert registry.get_sample_value("gmem_bank_swaps_total", {"bank": "digits"}) == 12


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
def test_files_of_left_versions_are_unmapped(
    store: Store, tmp_path: Path, make_host: Callable[..., BankHost]
) -> None:
    host = make_host(max_open_versions=2)
    published = []
    for seed in range(6):
        published.append(banks.publish(store, **banks.features(seed=seed)))
        host.refresh()
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = "\n".join(line for line in maps if str(tmp_path) in line)
    files = [version.manifest.files[SNIPPETS].sha256 for version in published]
    assert [digest in mapped for digest in files] == [False] * 3 + [True] * 3


def test_corrupt_new_version_is_refused_and_the_old_one_served(
    store: Store, tmp_path: Path, registry: CollectorRegistry, make_host: Callable[..., BankHost]
) -> None:
    banks.publish(store)
    host = make_host()
    host.refresh()
    second = banks.publish(store, alias=None, **banks.features(seed=1))
    banks.flip_byte(tmp_path / "store", second, SNIPPETS)
    store.repository("banks", "digits").set_alias("production", second)
    for _ in range(3):
        host.refresh()

    assert host.resolve("digits").version.seq == 1
    host.check()
    with pytest.raises(CorruptVersionError, match=SNIPPETS):
        host.resolve("digits@2")
    assert any(SNIPPETS in problem for problem in host.problems())
    failures = registry.get_sample_value("gmem_bank_swap_failures_total", {"bank": "digits"})
    assert failures == 1, "a refused version is not verified again at every poll"


def test_a_version_nobody_trusted_signed_is_refused_and_the_old_one_served_until_it_is_signed(
    store: Store, tmp_path: Path, registry: CollectorRegistry
) -> None:
    make_keys(tmp_path / "key")
    settings = StoreSettings(
        url=str(tmp_path / "store"),
        cache_dir=tmp_path / "cache",
        signing_key_file=tmp_path / "key",
        trusted_keys_file=tmp_path / "key.pub",
    )
    trusting = Store.from_settings(settings)
    banks.publish(trusting)
    now = 0.0
    host = BankHost(
        trusting,
        poll_seconds=0.02,
        max_open_versions=1,
        registry=registry,
        holder="test",
        clock=lambda: now,
    )
    host.refresh()
    unsigned = banks.publish(store, **banks.features(seed=1))
    for _ in range(3):
        host.refresh()
    assert host.resolve("digits").version.seq == 1
    with pytest.raises(UntrustedVersionError, match="gmem store sign"):
        host.resolve("digits@2")
    assert any("trusted keys" in problem for problem in host.problems())
    failures = registry.get_sample_value("gmem_bank_swap_failures_total", {"bank": "digits"})
    assert failures == 1
    with pytest.raises(UntrustedVersionError):
        host.set_alias("digits", "staging", "2", "")
    trusting.repository("banks", "digits").sign(unsigned)
    now = 60.0
    host.refresh()
    assert host.resolve("digits").version.seq == 2
    host.close()


def test_repaired_version_is_taken_into_use(
    store: Store, tmp_path: Path, make_host: Callable[..., BankHost]
) -> None:
    now = 0.0
    version = banks.publish(store)
    repair = banks.flip_byte(tmp_path / "store", version, DRAW)
    host = make_host(clock=lambda: now)
    host.refresh()
    with pytest.raises(CorruptVersionError):
        host.resolve("digits")
    with pytest.raises(NotReadyError, match=DRAW):
        host.check()
    repair()
    now = 60.0
    host.refresh()
    assert host.resolve("digits").version == version.ref


def test_alias_of_a_corrupt_version_is_not_moved(
    store: Store, tmp_path: Path, make_host: Callable[..., BankHost]
) -> None:
    banks.publish(store)
    second = banks.publish(store, alias=None, **banks.features(seed=1))
    banks.flip_byte(tmp_path / "store", second, SNIPPETS)
    host = make_host()
    host.refresh()
    with pytest.raises(CorruptVersionError):
        host.set_alias("digits", "production", "2", "")
    assert store.repository("banks", "digits").alias("production").seq == 1


def test_set_alias_is_served_at_once(store: Store, make_host: Callable[..., BankHost]) -> None:
    banks.publish(store)
    banks.publish(store, alias=None, **banks.features(seed=1))
    host = make_host()
    host.refresh()
    assert host.set_alias("digits", "production", "2", "better").seq == 2
    assert host.resolve("digits").version.seq == 2
    assert host.banks()[0].aliases == ("production",)


def test_everything_open_is_served_while_the_store_is_away(
    store: Store, make_host: Callable[..., BankHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    banks.publish(store)
    banks.publish(store, **banks.features(seed=1))
    host = make_host()
    host.refresh()
    host.resolve("digits@1")

    def away(*_: object) -> Any:
        raise StorageError("the store is away")

    monkeypatch.setattr(store, "names", away)
    monkeypatch.setattr(store, "repository", away)
    host.start()
    wait_until(lambda: bool(host.problems()))
    assert host.problems() == ["store: the store is away"]
    assert host.resolve("digits").version.seq == 2
    assert host.resolve("digits@1").version.seq == 1
    host.check()
    with pytest.raises(StorageError):
        host.resolve("digits@staging")


def test_a_store_that_is_away_is_not_asked_by_requests(
    store: Store, make_host: Callable[..., BankHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    banks.publish(store)
    banks.publish(store, **banks.features(seed=1))
    host = make_host()

    def away(*_: object) -> Any:
        raise StorageError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "names", away)
        host.start()
        wait_until(lambda: bool(host.problems()))
        with pytest.raises(StorageError, match="the store is away"):
            host.resolve("digits@1")
    wait_until(lambda: not host.problems())
    assert host.resolve("digits@1").version.seq == 1


def test_banks_of_an_emptied_store_are_still_served(
    store: Store, tmp_path: Path, make_host: Callable[..., BankHost]
) -> None:
    banks.publish(store)
    host = make_host()
    host.refresh()
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    host.refresh()
    assert host.resolve("digits").version.seq == 1
    assert host.problems() == [
        "digits@production: gone from the store; restore it there, or restart to forget it"
    ]
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    host.refresh()
    assert host.problems() == []


def test_a_store_made_anew_is_followed(
    store: Store, tmp_path: Path, make_host: Callable[..., BankHost]
) -> None:
    banks.publish(store)
    host = make_host()
    host.refresh()
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    other = banks.publish(store, **banks.features(seed=1))
    host.refresh()
    assert host.resolve("digits").version == other.ref


def test_a_damaged_alias_of_one_bank_leaves_the_others_alone(
    store: Store, tmp_path: Path, make_host: Callable[..., BankHost]
) -> None:
    for name in ("damaged", "digits"):
        banks.publish(store, name)
    (record,) = (tmp_path / "store/banks/damaged/aliases/production").iterdir()
    record.write_bytes(b"{}")
    host = make_host()
    host.refresh()
    assert host.resolve("digits").version.seq == 1
    with pytest.raises(CorruptVersionError, match="aliases/production"):
        host.resolve("damaged")
    assert [problem.partition(":")[0] for problem in host.problems()] == ["damaged@production"]


def test_the_watch_outlives_a_defect(
    store: Store, make_host: Callable[..., BankHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    banks.publish(store)
    host = make_host()

    def broken(kind: str) -> Any:
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(store, "names", broken)
        host.start()
        wait_until(lambda: bool(host.problems()))
        with pytest.raises(NotReadyError, match="the log of the bank has the details"):
            host.check()
    wait_until(lambda: not host.problems())
    host.check()


def test_a_refused_lease_leaves_the_bank_served_and_the_others_leased(
    store: Store, make_host: Callable[..., BankHost]
) -> None:
    for name in ("digits", "faces"):
        banks.publish(store, name)
    leased: list[str] = []
    repositories = {name: store.repository("banks", name) for name in ("digits", "faces")}

    def refuse(*_: object) -> Any:
        raise ConflictError("about to be deleted")

    repositories["digits"].lease = refuse  # type: ignore[method-assign]
    repositories["faces"].lease = lambda *_: leased.append("faces")  # type: ignore
    store.repository = lambda kind, name: repositories[name]  # type: ignore
    host = make_host()
    host.start()
    wait_until(lambda: leased == ["faces"])
    assert host.problems() == []
    assert host.resolve("digits").version.seq == 1


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("letters", UnknownBankError),
        ("digits@7", UnknownVersionError),
        ("digits@staging", UnknownAliasError),
        ("digits@sha256-" + "0" * 64, UnknownVersionError),
    ],
)
def test_unknown_names_are_told_apart(
    store: Store,
    make_host: Callable[..., BankHost],
    reference: str,
    error: type[GmemError],
) -> None:
    banks.publish(store)
    host = make_host()
    host.refresh()
    with pytest.raises(error):
        host.resolve(reference)


def test_check_says_why_nothing_can_be_served(make_host: Callable[..., BankHost]) -> None:
    host = make_host()
    with pytest.raises(NotReadyError, match="read for the first time"):
        host.check()
    host.refresh()
    with pytest.raises(NotReadyError, match="no bank with alias 'production'"):
        host.check()


def test_versions_in_use_are_leased_until_close(
    store: Store, make_host: Callable[..., BankHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = banks.publish(store)
    leased: dict[str, set[str]] = {}
    repository_class = type(store.repository("banks", "digits"))
    monkeypatch.setattr(
        repository_class,
        "lease",
        lambda self, holder, digests, ttl: leased.update({holder: set(digests)}),
    )
    monkeypatch.setattr(repository_class, "release", lambda self, holder: leased.pop(holder))
    host = make_host()
    host.start()
    wait_until(lambda: leased == {"test": {version.digest}})
    host.close()
    assert leased == {}


def test_a_version_is_opened_once_however_many_ask(store: Store) -> None:
    version = banks.publish(store)
    opened, release = [], threading.Event()

    def slow(version: Version) -> Snapshot:
        opened.append(version)
        assert release.wait(WAIT_SECONDS)
        return open_snapshot(store.repository("banks", "digits"), version)

    cache = SnapshotCache(slow, 1, clock=lambda: 0.0)
    found: list[Snapshot] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(version))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(opened) == 1)
    release.set()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert len(found) == 8
    assert len({id(snapshot) for snapshot in found}) == 1


def test_those_who_wait_for_a_version_are_told_why_it_cannot_be_opened(store: Store) -> None:
    version = banks.publish(store)
    opening, release = threading.Event(), threading.Event()

    def refuse(_: Version) -> Snapshot:
        opening.set()
        assert release.wait(WAIT_SECONDS)
        raise CorruptVersionError("classes.json differs")

    cache = SnapshotCache(refuse, 1, clock=lambda: 0.0)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, version)
        assert opening.wait(WAIT_SECONDS)
        second = pool.submit(cache.get, version)
        wait_until(lambda: second.running())
        release.set()
        for asked in (first, second):
            with pytest.raises(CorruptVersionError, match=r"classes\.json differs"):
                asked.result()


def test_a_swap_leaves_cores_to_those_that_are_served(
    store: Store, make_host: Callable[..., BankHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int | None] = []
    monkeypatch.setattr(
        "gmem_bank.host.open_snapshot",
        lambda *args, cores: (used.append(cores), open_snapshot(*args, cores=cores))[1],
    )
    host = make_host()
    for seed in range(2):
        banks.publish(store, **banks.features(seed=seed))
        host.refresh()
    assert used == [None, 1]
