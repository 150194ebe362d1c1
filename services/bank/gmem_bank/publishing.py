"""Publishing versions of a bank: from features, and with an index."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gmem_bank.index import (
    build_index,
    library_version,
    measure_effort,
    plan_index,
    write_index,
)
from gmem_shared.bank_format import INDEX, open_bank, write_bank
from gmem_shared.bank_rows import Progress
from gmem_shared.class_names import read_class_names
from gmem_shared.errors import InvalidRequestError, OutOfRangeError
from gmem_shared.store import Repository, Version
from gmem_shared.types import ClassInfo

_RECALL_QUERIES = 200

Array = NDArray[Any]


def read_features(path: Path) -> dict[str, Array]:
    """Read ``vectors`` from a ``.npy`` file, or any of ``vectors labels source_ids weights``.

    Raises:
        InvalidRequestError: The file is neither ``.npy`` nor ``.safetensors``, or unreadable.
    """
    try:
        if path.suffix == ".npy":
            return {"vectors": np.load(path, allow_pickle=False, mmap_mode="r")}
        if path.suffix == ".safetensors":
            return dict(load_file(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidRequestError(f"cannot read {path}: {error}") from error
    raise InvalidRequestError(f"expected a .npy or .safetensors file, found {path.name!r}")


def read_classes(path: Path | None, labels: Array) -> list[ClassInfo]:
    """Read the classes of a bank; without a file, classes are named by number.

    Raises:
        InvalidRequestError: The file does not have the form of `read_class_names`.
    """
    if path is None:
        return [ClassInfo(label, str(label)) for label in np.unique(labels).tolist() if label >= 0]
    return read_class_names(path)


def publish_features(
    repository: Repository,
    features: dict[str, Array],
    classes_file: Path | None,
    *,
    encoder: str,
    normalized: bool,
    message: str,
) -> Version:
    """Publish a version from arrays; rows without labels get -1, source ids count from 0.

    Raises:
        InvalidRequestError: The arrays do not make a servable bank.
    """
    if "vectors" not in features:
        raise InvalidRequestError(f"expected a tensor 'vectors', found {sorted(features)}")
    rows = len(features["vectors"])
    labels = features.get("labels", np.full(rows, -1, np.int32))
    with tempfile.TemporaryDirectory() as folder:
        files, metadata = write_bank(
            Path(folder),
            vectors=features["vectors"],
            labels=labels,
            source_ids=features.get("source_ids", np.arange(rows)),
            classes=read_classes(classes_file, labels),
            encoder=encoder,
            weights=features.get("weights"),
            normalized=normalized,
        )
        return repository.publish(files, metadata=metadata, message=message)


def publish_index(
    repository: Repository,
    version: Version,
    factory: str | None = None,
    *,
    min_recall: float,
    message: str,
    progress: Progress = lambda rows: None,
) -> Version:
    """Publish the same rows with an index; its measured effort and recall go into the manifest.

    Args:
        repository: The bank.
        version: The rows.
        factory: Kind of index; default: what suits the number of rows.
        min_recall: The index tries as hard as this takes.
        message: For the log of versions.
        progress: Told the number of rows indexed since it was told last.

    Raises:
        InvalidRequestError: The factory string is not among those served.
        OutOfRangeError: With the greatest effort it finds fewer true neighbours.
    """
    data = open_bank(repository.open(version))
    factory = factory or plan_index(len(data))
    index = build_index(data, factory, progress)
    effort, recall = measure_effort(data, index, _RECALL_QUERIES, min_recall=min_recall)
    if recall < min_recall:
        raise OutOfRangeError(
            f"expected recall@10 >= {min_recall}, measured {recall:.4f} with {factory!r}; "
            f"choose another index"
        )
    description = {
        "factory": factory,
        "faiss": library_version(),
        "effort": effort,
        "recall_at_10": round(recall, 4),
        "queries": min(_RECALL_QUERIES, len(data)),
    }
    kept = {name: entry for name, entry in version.manifest.files.items() if name != INDEX}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / INDEX
        write_index(index, path)
        return repository.publish(
            {INDEX: path},
            metadata=version.manifest.metadata | {"index": description},
            message=message,
            reuse=kept,
        )
