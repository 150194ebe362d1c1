"""Small banks: well-separated classes, rows that can be told apart by version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmem_bank.grpc_server import GrpcServer
from gmem_bank.local import LocalBank
from gmem_shared.bank_format import write_bank
from gmem_shared.settings import BankSettings, Settings, StoreSettings
from gmem_shared.store import Store, Version
from gmem_shared.types import DEFAULT_ALIAS, ClassInfo

CLASSES = tuple(ClassInfo(i, f"class-{i}", (f"alias-{i}",)) for i in range(4))
ENCODER = "test-encoder"
DIMENSION = 8


def features(rows: int = 40, *, seed: int = 0, classes: int = 4) -> dict[str, NDArray[Any]]:
    """Vectors near the axis of their class; source ids 1000 * seed + row."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.int32) % classes
    vectors = rng.normal(scale=0.1, size=(rows, DIMENSION))
    vectors[np.arange(rows), labels] += 1 + seed
    return {
        "vectors": vectors.astype(np.float16),
        "labels": labels,
        "source_ids": np.arange(rows, dtype=np.int64) + 1000 * seed,
    }


def publish(
    store: Store, name: str = "digits", *, alias: str | None = DEFAULT_ALIAS, **arrays: Any
) -> Version:
    """Publish a version, by default of :func:`features`, and point an alias at it."""
    given = {"classes": CLASSES, "encoder": ENCODER} | (arrays or features())
    repository = store.repository("banks", name)
    with tempfile.TemporaryDirectory() as folder:
        files, metadata = write_bank(Path(folder), **given)
        version = repository.publish(files, metadata=metadata)
    if alias is not None:
        repository.set_alias(alias, version)
    return version


def flip_byte(store_root: Path, version: Version, file: str) -> Callable[[], None]:
    """Damage a stored file of a version; the returned function repairs it."""
    digest = version.manifest.files[file].sha256
    path = next(store_root.rglob(digest))
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))

    def repair() -> None:
        path.write_bytes(good)

    return repair


@contextmanager
def grpc_service(bank: LocalBank, port: int = 0, **security: Any) -> Iterator[GrpcServer]:
    """The gRPC door of a started bank, on a real port; ``security``: guard, credentials."""
    server = GrpcServer(bank.service, workers=4, host="127.0.0.1", port=port, **security)
    server.start()
    server.set_serving(True)
    try:
        yield server
    finally:
        server.stop(grace_seconds=5)


def settings(**changes: Any) -> Settings:
    """Settings that look for moved aliases every few milliseconds."""
    return Settings(store=StoreSettings(poll_seconds=0.02), bank=BankSettings(**changes))
