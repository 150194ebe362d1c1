"""The live banks of a store: follows aliases, swaps versions without a dropped request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from gmem_bank.snapshots import REFUSALS, Snapshot, SnapshotCache, open_snapshot
from gmem_shared import telemetry
from gmem_shared.announcements import Announcer, Subscriber
from gmem_shared.errors import (
    CorruptVersionError,
    GmemError,
    InternalError,
    NotReadyError,
    StorageError,
    UnknownBankError,
    UnsupportedVersionError,
    copy_of,
)
from gmem_shared.settings import RedisSettings
from gmem_shared.store import AliasRecord, Repository, Store, Version
from gmem_shared.types import DEFAULT_ALIAS, BankInfo, Reference, VersionRef

_log = structlog.get_logger(__name__)

_JITTER = 0.2
_LEASE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Target:
    """What an alias serves.

    Attributes:
        snapshot: What is served: the version it points to or, when that was refused, the one
            before; ``None`` when there is neither.
        error: Why the version it points to is not served.
    """

    snapshot: Snapshot | None
    error: GmemError | None = None


Targets = Mapping[str, Mapping[str, Target]]
"""Bank name to alias to target; replaced as a whole, never changed."""


class BankHost:
    """Serves snapshots of the banks in a store.

    The table of aliases is an immutable value: a request reads it once, a swap replaces it by one
    assignment, after the new version was verified and mapped. When the store is away everything
    that is open goes on being served, and what is not open is refused at once, so that no thread
    waits for the store. Nor is a bank dropped that is gone from the store: no alias is ever
    deleted, so an empty folder is a lost one.

    Args:
        store: Where the versions are.
        poll_seconds: How often to look for a moved alias, give or take a fifth.
        max_open_versions: Versions kept open besides those an alias points to.
        registry: Where the metrics live.
        holder: Name under which the versions in use are leased, so that no clean-up takes them.
        redis: Where moves of aliases are announced, so that one need not wait for a poll.
        rng: Spreads the polls of replicas.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        poll_seconds: float,
        max_open_versions: int,
        registry: CollectorRegistry,
        holder: str,
        redis: RedisSettings | None = None,
        rng: np.random.Generator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._holder = holder
        self._rng = rng or np.random.default_rng()
        self._clock = clock
        self._leased: frozenset[VersionRef] = frozenset()
        self._lease_until = 0.0
        self._snapshots = SnapshotCache(self._open, max_open_versions, clock)
        self._targets: Targets = {}
        self._scanned = False
        self._store_error: GmemError | None = None
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self._look = threading.Event()
        redis = redis or RedisSettings()
        self._subscriber = Subscriber(redis, "moved", self._look.set)
        self._tell_served = Announcer(redis, "served")
        self._watcher = threading.Thread(target=self._watch, name="bank-watch", daemon=True)
        self._version_metric = telemetry.BANK_VERSION.gauge(registry)
        self._swaps = telemetry.BANK_SWAPS.counter(registry)
        self._failures = telemetry.BANK_SWAP_FAILURES.counter(registry)
        telemetry.BANK_OPEN_SNAPSHOTS.gauge(registry).set_function(self._snapshots.count_alive)

    def start(self) -> None:
        """Begin to follow the aliases; does not wait for the first version."""
        self._watcher.start()
        self._subscriber.start()

    def close(self) -> None:
        """Stop following the aliases."""
        self._subscriber.close()
        self._stopped.set()
        self._look.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._release_leases()

    def check(self) -> None:
        """Return when a bank can be served.

        Raises:
            NotReadyError: The store was not read yet, or no default version can be served.
        """
        if any(self._default_targets()):
            return
        raise NotReadyError(
            f"no bank can be served: {self._reason()}", retry_after_seconds=self._poll_seconds
        )

    def problems(self) -> list[str]:
        """Say what is wrong though requests are served: store away, versions refused."""
        found = [] if self._store_error is None else [f"store: {self._store_error.detail}"]
        for name, targets in self._targets.items():
            for alias, target in targets.items():
                if target.error is not None:
                    found.append(f"{name}@{alias}: {target.error.detail}")
        return found

    def is_open(self, bank: str) -> bool:
        """Whether `resolve` answers without asking the store."""
        reference = Reference.parse(bank)
        return (
            reference.selector in self._targets.get(reference.name, {})
            or self._snapshots.find(reference.name, reference.selector) is not None
        )

    def resolve(self, bank: str) -> Snapshot:
        """Return the one snapshot that answers a request.

        Args:
            bank: A reference such as ``digits``, ``digits@3`` or ``digits@sha256-…``.

        Raises:
            NotFoundError: No such bank, alias or version.
            CorruptVersionError: The version's files are not the published ones.
            StorageError: The version is not open and the store does not answer.
        """
        reference = Reference.parse(bank)
        target = self._targets.get(reference.name, {}).get(reference.selector)
        if target is not None:
            if target.snapshot is not None:
                return target.snapshot
            raise copy_of(target.error or NotReadyError(f"{bank} is being opened"))
        snapshot = self._snapshots.find(reference.name, reference.selector)
        if snapshot is not None:
            return snapshot
        if isinstance(self._store_error, StorageError):
            raise copy_of(self._store_error)
        repository = self._store.repository("banks", reference.name)
        return self._snapshots.get(repository.resolve(reference.selector))

    def banks(self) -> list[BankInfo]:
        """Describe the default version of every bank that can be served."""
        self.check()
        return [self.describe(snapshot) for snapshot in self._default_targets()]

    def describe(self, snapshot: Snapshot) -> BankInfo:
        """Describe a version with the aliases that point to it."""
        targets = self._targets.get(snapshot.version.name, {})
        return snapshot.data.info(
            alias for alias, target in targets.items() if target.snapshot is snapshot
        )

    def repository(self, name: str) -> Repository:
        """Return a bank's versions in the store.

        Raises:
            UnknownBankError: The store has no such bank.
        """
        if name not in self._targets and name not in (names := self._store.names("banks")):
            raise UnknownBankError(f"expected one of the banks {names}, found {name!r}")
        return self._store.repository("banks", name)

    def set_alias(self, name: str, alias: str, selector: str, reason: str) -> AliasRecord:
        """Point an alias to a version that was opened first, and serve it at once.

        Raises:
            CorruptVersionError: The version cannot be served; the alias stays where it is.
        """
        repository = self.repository(name)
        version = repository.resolve(selector)
        self._snapshots.get(version)
        record = repository.set_alias(alias, version, reason=reason)
        self.refresh()
        return record

    def refresh(self) -> None:
        """Read all aliases, open what they point to, and serve it.

        Raises:
            StorageError: The store does not answer; what was served still is.
        """
        with self._refreshing:
            names = {*self._store.names("banks"), *self._targets}
            targets = {name: self._read_bank(name) for name in sorted(names)}
            previous, self._targets = self._targets, targets
            self._scanned, self._store_error = True, None
            served = [target.snapshot for bank in targets.values() for target in bank.values()]
            self._snapshots.pin([snapshot.version for snapshot in served if snapshot])
            self._report(previous, targets)

    def _read_bank(self, name: str) -> dict[str, Target]:
        repository = self._store.repository("banks", name)
        served = {alias: target.snapshot for alias, target in self._targets.get(name, {}).items()}
        try:
            records = repository.aliases()
        except (CorruptVersionError, UnsupportedVersionError) as error:
            # The other banks are none the worse.
            return {alias: Target(served.get(alias), error) for alias in served or [DEFAULT_ALIAS]}
        lost = StorageError("gone from the store; restore it there, or restart to forget it")
        return {alias: Target(kept, lost) for alias, kept in served.items() if kept} | {
            alias: self._target(repository, record, served.get(alias))
            for alias, record in records.items()
        }

    def _target(self, repository: Repository, record: AliasRecord, kept: Snapshot | None) -> Target:
        if kept and (kept.version.seq, kept.version.digest) == (record.seq, record.digest):
            return Target(kept)
        try:
            return Target(self._snapshots.get(repository.resolve(record.seq)))
        except GmemError as error:
            return Target(kept, error)

    def _open(self, version: Version) -> Snapshot:
        repository = self._store.repository("banks", version.name)
        # Nobody waits for a swap, while those that are served need the other cores.
        cores = 1 if any(self._default_targets()) else None
        try:
            snapshot = open_snapshot(repository, version, cores=cores)
        except REFUSALS as error:
            self._failures.labels(version.name).inc()
            _log.error("bank.version.refused", version=str(version.ref), error=error.detail)
            raise
        except OSError as error:
            raise StorageError(f"cannot map bank version {version.ref}: {error}") from error
        _log.info("bank.version.opened", version=str(version.ref), rows=len(snapshot.data))
        return snapshot

    def _report(self, previous: Targets, targets: Targets) -> None:
        swapped = False
        for name, bank in targets.items():
            for alias, target in bank.items():
                if target.snapshot is None:
                    continue
                before = previous.get(name, {}).get(alias)
                if before is None or before.snapshot is not target.snapshot:
                    seq = target.snapshot.version.seq
                    self._version_metric.labels(name, alias).set(seq)
                    self._swaps.labels(name).inc()
                    _log.info("bank.version.swapped", bank=name, alias=alias, seq=seq)
                    swapped = True
        if swapped:
            self._tell_served()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                self.refresh()
                self._renew_leases()
            except GmemError as error:
                self._store_error = error
                _log.warning("bank.refresh.failed", error=error.detail)
            except Exception:  # noqa: BLE001 (a defect must not end the watch unnoticed)
                self._store_error = InternalError("a defect; the log of the bank has the details")
                _log.exception("bank.refresh.failed")
            self._look.wait(self._poll_seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER))
            self._look.clear()

    def _renew_leases(self) -> None:
        """Lease the versions in use, when they changed or a third of the term has passed."""
        refs, now = frozenset(self._snapshots.versions()), self._clock()
        if refs == self._leased and now < self._lease_until - _LEASE.total_seconds() * 2 / 3:
            return
        for name in {ref.name for ref in refs}:
            digests = [ref.digest for ref in refs if ref.name == name]
            try:
                self._store.repository("banks", name).lease(self._holder, digests, _LEASE)
            except GmemError as error:  # the other banks are none the worse
                _log.warning("bank.lease.failed", bank=name, error=error.detail)
        self._leased, self._lease_until = refs, now + _LEASE.total_seconds()

    def _release_leases(self) -> None:
        for name in {ref.name for ref in self._leased}:
            try:
                self._store.repository("banks", name).release(self._holder)
            except GmemError as error:
                _log.warning("bank.lease.kept", bank=name, error=error.detail)

    def _default_targets(self) -> list[Snapshot]:
        found = [bank.get(DEFAULT_ALIAS) for _, bank in sorted(self._targets.items())]
        return [target.snapshot for target in found if target and target.snapshot]

    def _reason(self) -> str:
        if not self._scanned and self._store_error is None:
            return "the store is being read for the first time"
        return "; ".join(self.problems()) or (
            f"the store has no bank with alias {DEFAULT_ALIAS!r}; publish one and set the alias"
        )
