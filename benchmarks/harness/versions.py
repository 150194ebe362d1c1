"""Further versions of the digits bank and model, each with rows and images of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from gmem_shared.bank_format import open_bank, write_bank
from gmem_shared.store import Repository, Store, Version

NAME = "digits"
NETWORK = "network.safetensors"
_STEP = 0.05


def copy_store(store: Path, to: Path) -> Store:
    """Return a fresh copy of a store, for versions that nobody needs afterwards."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(store, to)
    return Store.from_url(str(to), cache_dir=to.with_name("cache"))


def publish_bank(store: Store, number: int) -> Version:
    """Publish every second row of the first bank, the even or the odd ones in turn."""
    repository = store.repository("banks", NAME)
    bank = open_bank(repository.open(repository.resolve(1)))
    kept = np.arange(number % 2, len(bank), 2)
    with tempfile.TemporaryDirectory() as folder:
        files, metadata = write_bank(
            Path(folder),
            vectors=np.asarray(bank.vectors[kept]),
            labels=np.asarray(bank.labels[kept]),
            source_ids=np.asarray(bank.source_ids[kept]),
            classes=bank.classes,
            encoder=bank.encoder,
            weights=np.full(len(kept), number + 1, np.uint32),
            normalized=bank.normalized,
        )
        return repository.publish(files, metadata=metadata)


def publish_model(store: Store, number: int) -> Version:
    """Publish the first model with larger predictions, which gives other images."""
    repository = store.repository("models", NAME)
    first = repository.resolve(1)
    weights = load_file(repository.open(first).path(NETWORK))
    weights["final_layer.linear.weight"] *= np.float32(1 + _STEP * (number + 1))
    others = {name: entry for name, entry in first.manifest.files.items() if name != NETWORK}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NETWORK
        save_file(weights, path)
        metadata = first.manifest.metadata
        return repository.publish({NETWORK: path}, metadata=metadata, reuse=others)


def point(repository: Repository, version: Version) -> None:
    """Have the production alias lead to a version."""
    repository.set_alias("production", version, reason="benchmark")
