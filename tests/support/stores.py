"""Stores for tests: a clock that is set by hand, and object stores that misbehave on purpose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

from gmem_shared.errors import PublishConflictError
from gmem_shared.store import Repository, Store, Version
from gmem_shared.store.objects import ObjectInfo, Objects

PUBLISHERS = 16


class FakeClock:
    """A clock that only moves when told to; ``sleep`` is one way to tell."""

    def __init__(self) -> None:
        self.now = datetime(2025, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Crash(BaseException):
    """The process died here."""


class InterruptedObjects:
    """An object store that calls ``interrupt`` before or after the effect of its call ``at``.

    Calls are counted from 0: those of one method, or of all.
    """

    def __init__(
        self,
        objects: Objects,
        at: int,
        interrupt: Callable[[], None],
        *,
        after: bool = False,
        method: str | None = None,
    ) -> None:
        self._objects = objects
        self._at = at
        self._interrupt = interrupt
        self._after = after
        self._method = method
        self._lock = threading.Lock()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._objects, name)
        if self._method not in (None, name):
            return method

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                due = self.calls == self._at
                self.calls += 1
            if due and not self._after:
                self._interrupt()
            result = method(*args, **kwargs)
            if due and self._after:
                self._interrupt()
            return result

        return call


def crash() -> None:
    raise Crash


class ClockedObjects:
    """An object store whose modification times follow a fake clock."""

    def __init__(self, objects: Objects, clock: FakeClock) -> None:
        self._objects = objects
        self._clock = clock
        self._modified: dict[str, datetime] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def create(self, path: str, data: bytes) -> bool:
        self._modified.setdefault(path, self._clock())
        return self._objects.create(path, data)

    def write(self, path: str, source: bytes | Path) -> None:
        self._modified[path] = self._clock()
        self._objects.write(path, source)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._modified.pop(path, None)
        self._objects.delete(paths)

    def stat(self, path: str) -> ObjectInfo | None:
        info = self._objects.stat(path)
        return info and self._dated(info)

    def scan(self, folder: str, after: str = "") -> list[ObjectInfo]:
        return [self._dated(info) for info in self._objects.scan(folder, after)]

    def _dated(self, info: ObjectInfo) -> ObjectInfo:
        return ObjectInfo(info.path, info.size, self._modified[info.path])


def contents(repository: Repository, version: Version) -> dict[str, bytes]:
    """Open a version and read all of it."""
    opened = repository.open(version)
    return {name: path.read_bytes() for name, path in opened.paths.items()}


def race(stores: Sequence[Store], publish: Callable[[Repository, int], Version]) -> list[Any]:
    """Let every store publish to models/raced at once; return versions and conflicts."""
    barrier = threading.Barrier(len(stores))

    def run(number: int) -> Any:
        repository = stores[number].repository("models", "raced")
        barrier.wait(timeout=60)
        try:
            return publish(repository, number)
        except PublishConflictError as error:
            return error

    with ThreadPoolExecutor(len(stores)) as pool:
        return list(pool.map(run, range(len(stores))))


def check_racing_publishers(url: str, folder: Path) -> None:
    """Assert that racing publishers all get a version, each number exactly once."""
    stores = [Store.from_url(url, folder / str(number)) for number in range(PUBLISHERS)]
    payloads = [f"payload {number}".encode() for number in range(PUBLISHERS)]
    published = race(stores, lambda repository, n: repository.publish({"data": payloads[n]}))
    repository = Store.from_url(url, folder / "reader").repository("models", "raced")
    versions = repository.versions()
    assert [version.seq for version in versions] == list(range(1, PUBLISHERS + 1))
    assert [version.parent for version in versions] == list(range(PUBLISHERS))
    assert sorted(published, key=lambda version: version.seq) == versions
    for version, payload in zip(published, payloads, strict=True):
        assert contents(repository, version) == {"data": payload}


def check_one_heir(url: str, folder: Path) -> None:
    """Assert that of publishers who all expect the same parent, exactly one succeeds."""
    stores = [Store.from_url(url, folder / str(number)) for number in range(PUBLISHERS)]
    outcomes = race(
        stores,
        lambda repository, n: repository.publish({"data": bytes([n])}, expected_parent=0),
    )
    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, Version))
    repository = Store.from_url(url, folder / "reader").repository("models", "raced")
    assert repository.versions() == [winner]
    assert contents(repository, winner) == {"data": bytes([outcomes.index(winner)])}


def check_one_publish_id(url: str, folder: Path) -> None:
    """Assert that publishers who share a publish_id publish once, and all learn of it."""
    stores = [Store.from_url(url, folder / str(number)) for number in range(PUBLISHERS)]
    outcomes = race(
        stores, lambda repository, _: repository.publish({"data": b"same"}, publish_id="job-1")
    )
    repository = Store.from_url(url, folder / "reader").repository("models", "raced")
    assert outcomes == repository.versions() * PUBLISHERS
