"""Random histories of everything that can happen to a repository, against a simple model.

The model knows what must be readable. Collections are crashed at a random call, or another
operation is run in the middle of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gmem_shared.errors import AliasConflictError, ConflictError, NotFoundError
from gmem_shared.store import Repository, Store, Version
from gmem_shared.store.backends import connect
from gmem_shared.store.gc import Retention
from tests.support.stores import ClockedObjects, Crash, FakeClock, InterruptedObjects, contents

Moment = tuple[str | None, int]

HOUR = timedelta(hours=1)
RETENTION = Retention(versions=2, alias_targets=2, grace=48 * HOUR)

files = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.binary(max_size=1), min_size=1, max_size=3
)
aliases = st.sampled_from(["production", "canary"])
holders = st.sampled_from(["bank-0", "bank-1"])
choices = st.integers(0, 1000)
moments = st.one_of(
    st.tuples(st.none(), st.integers(0, 60)),  # at any call of the object store
    st.tuples(st.just("delete"), st.integers(0, 3)),
)


@dataclass
class Model:
    """What happened, and from it what must be kept."""

    clock: FakeClock
    versions: dict[int, tuple[Version, dict[str, bytes]]] = field(default_factory=dict)
    history: dict[str, list[int]] = field(default_factory=dict)
    leases: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def live(self) -> dict[int, tuple[Version, dict[str, bytes]]]:
        wanted = set(sorted(self.versions)[-RETENTION.versions :])
        for seqs in self.history.values():
            wanted.update(seqs[-RETENTION.alias_targets :])
        newest_by_digest = {v.digest: seq for seq, (v, _) in sorted(self.versions.items())}
        for digest, end in self.leases.values():
            if self.clock() < end:
                wanted.add(newest_by_digest[digest])
        grace = self.clock() - RETENTION.grace
        return {
            seq: (version, files)
            for seq, (version, files) in self.versions.items()
            if seq in wanted or version.published_at > grace
        }


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.model = Model(self.clock)
        self.objects = ClockedObjects(connect(f"memory://{uuid4().hex}"), self.clock)
        self.cache = tempfile.TemporaryDirectory()
        self.repository = self.open_repository(self.objects)

    def open_repository(self, objects: object) -> Repository:
        return Store(objects, Path(self.cache.name), self.clock).repository("banks", "digits")

    def teardown(self) -> None:
        self.cache.cleanup()

    def forget_what_is_gone(self) -> None:
        """Drop collected versions from the model, all of which must have been garbage."""
        present = {version.seq for version in self.repository.versions()}
        gone = self.model.versions.keys() - present
        assert not gone & self.model.live().keys()
        for seq in gone:
            del self.model.versions[seq]

    def pick(self, choice: int) -> tuple[Version, dict[str, bytes]]:
        return list(self.model.versions.values())[choice % len(self.model.versions)]

    @rule(files=files)
    def publish(self, files: dict[str, bytes]) -> None:
        try:
            version = self.repository.publish(files)
        except ConflictError:  # a collection is about to delete some of it
            return
        assert version.seq == max(self.model.versions, default=0) + 1
        self.model.versions[version.seq] = (version, files)

    @precondition(lambda self: self.model.versions)
    @rule(choice=choices, content=st.binary(max_size=1))
    def tombstone(self, choice: int, content: bytes) -> None:
        """Publish an older version again with one file changed, reusing the others."""
        seqs = sorted(self.model.live())
        old, old_files = self.model.versions[seqs[choice % len(seqs)]]
        changed = min(old_files)
        reuse = {name: e for name, e in old.manifest.files.items() if name != changed}
        try:
            version = self.repository.publish({changed: content}, reuse=reuse)
        except ConflictError:
            return
        self.model.versions[version.seq] = (version, old_files | {changed: content})

    @precondition(lambda self: self.model.versions)
    @rule(alias=aliases, choice=choices)
    def set_alias(self, alias: str, choice: int) -> None:
        version, _ = self.pick(choice)
        try:
            record = self.repository.set_alias(alias, version)
        except (NotFoundError, ConflictError):
            assert version.seq not in self.model.live()
            return
        self.model.history.setdefault(alias, []).append(record.seq)

    @rule(alias=aliases)
    def rollback(self, alias: str) -> None:
        try:
            record = self.repository.rollback(alias)
        except (NotFoundError, AliasConflictError, ConflictError):
            return
        self.model.history[alias].append(record.seq)

    @precondition(lambda self: self.model.versions)
    @rule(holder=holders, choice=choices, hours=st.integers(1, 200))
    def lease(self, holder: str, choice: int, hours: int) -> None:
        self.forget_what_is_gone()
        version, _ = self.pick(choice)
        try:
            lease = self.repository.lease(holder, [version.digest], hours * HOUR)
        except (NotFoundError, ConflictError):
            return
        self.model.leases[holder] = (version.digest, lease.expires_at)

    @rule(holder=holders)
    def release(self, holder: str) -> None:
        self.repository.release(holder)
        self.model.leases.pop(holder, None)

    @rule(hours=st.integers(1, 100))
    def wait(self, hours: int) -> None:
        self.clock.now += hours * HOUR

    @rule()
    def collect(self) -> None:
        self.clock.now += 2 * HOUR  # the plan of a crashed collection has expired
        self.repository.collect_garbage(RETENTION, self.clock.sleep)
        live = self.model.live()
        assert [version.seq for version in self.repository.versions()] == sorted(live)
        for version, files in live.values():
            assert contents(self.repository, version) == files
        self.check_nothing_unreferenced_is_old()

    def check_nothing_unreferenced_is_old(self) -> None:
        referenced = {
            entry.sha256
            for version, _ in self.model.live().values()
            for entry in version.manifest.files.values()
        } | {version.digest for version, _ in self.model.live().values()}
        for folder in ("blobs", "manifests"):
            for info in self.objects.scan(f"banks/digits/{folder}"):
                name = info.path.rpartition("/")[2].removesuffix(".json")
                young = info.modified > self.clock() - RETENTION.grace
                assert name in referenced or young

    @rule(at=moments, after=st.booleans())
    def collect_and_crash(self, at: Moment, after: bool) -> None:
        def die() -> None:
            raise Crash

        self.collect_interrupted(at, die, after=after)

    @rule(at=moments, files=files)
    def collect_while_publishing(self, at: Moment, files: dict[str, bytes]) -> None:
        self.collect_interrupted(at, lambda: self.publish(files))

    @precondition(lambda self: self.model.versions)
    @rule(at=moments, alias=aliases, choice=choices)
    def collect_while_setting_alias(self, at: Moment, alias: str, choice: int) -> None:
        self.collect_interrupted(at, lambda: self.set_alias(alias, choice))

    @precondition(lambda self: self.model.versions)
    @rule(at=moments, holder=holders, choice=choices)
    def collect_while_leasing(self, at: Moment, holder: str, choice: int) -> None:
        self.collect_interrupted(at, lambda: self.lease(holder, choice, 100))

    def collect_interrupted(
        self, at: Moment, interrupt: Callable[[], None], *, after: bool = False
    ) -> None:
        self.clock.now += RETENTION.grace  # so that there is garbage
        method, number = at
        interrupted = InterruptedObjects(
            self.objects, number, interrupt, after=after, method=method
        )
        try:
            self.open_repository(interrupted).collect_garbage(RETENTION, self.clock.sleep)
        except (Crash, ConflictError):
            return

    @invariant()
    def every_live_version_is_intact(self) -> None:
        self.forget_what_is_gone()
        for version in self.repository.versions():
            assert version in [known for known, _ in self.model.versions.values()]
            self.repository.verify(version)

    @invariant()
    def no_move_of_an_alias_is_lost(self) -> None:
        recorded = {
            alias: [record.seq for record in self.repository.alias_history(alias)]
            for alias in self.repository.aliases()
        }
        assert recorded == self.model.history


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
