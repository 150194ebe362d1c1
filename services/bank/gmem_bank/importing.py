"""Banks that others published, as versions of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmem_bank.labels import Labels, read_index, read_prototypes
from gmem_bank.publishing import read_classes
from gmem_shared.bank_format import write_bank
from gmem_shared.bank_rows import Progress, Rows
from gmem_shared.ports import load
from gmem_shared.store import Repository, Version

READER = "gmem_model.importing.banks:read_bank"
"""Reads the published layouts; it needs torch, which the bank service does without."""
ENCODER = "gmem_model.encoders.dinov2:PUBLISHED_VITB14"


class ForeignBank(Protocol):
    """What the reader returns; see `gmem_model.importing.banks.ForeignBank`."""

    @property
    def layout(self) -> str:
        """Name of the layout."""
        ...

    @property
    def vectors(self) -> Rows:
        """``(n, d)``, read when asked for."""
        ...

    @property
    def frequencies(self) -> NDArray[np.int64] | None:
        """``(n,)``."""
        ...

    @property
    def factors(self) -> Mapping[str, NDArray[Any]] | None:
        """Those of a compressed bank, as `write_bank` takes them."""
        ...


class ProgressBar(Protocol):
    """Shows how far something is; see `gmem_shared.progress.progress_bar`."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Progress]:
        """Show ``total`` of something; the context is told what was done."""
        ...


def read_foreign(path: Path, frequencies: Path | None = None) -> ForeignBank:
    """Read a published bank; raises `InvalidRequestError` for anything else."""
    bank: ForeignBank = load(READER)(path, frequencies)
    return bank


def published_encoder() -> str:
    """Return the id of the encoder of GMem's published banks."""
    return str(load(ENCODER))


def publish_foreign(
    repository: Repository,
    bank: ForeignBank,
    *,
    encoder: str,
    dtype: np.dtype[Any],
    bar: ProgressBar,
    index: Path | None = None,
    prototypes: Sequence[Path] = (),
    classes: Path | None = None,
    message: str = "",
) -> Version:
    """Publish a foreign bank; the source id of a row is its number in the file.

    Args:
        repository: The bank to publish to.
        bank: What to publish.
        encoder: Id of the encoder that made the vectors.
        dtype: float16 or float32, what is stored.
        bar: Shows the progress.
        index: Class ids in the order of the file, see `read_index`.
        prototypes: A labelled feature set; unless there is an ``index``, each row gets the class
            of the nearest prototype, see `read_prototypes`.
        classes: Names of the classes; default: by number.
        message: For the log of versions.

    Raises:
        InvalidRequestError: The rows or the labels do not make a servable bank.
    """
    rows = bank.vectors.shape[0]
    labels, origin = _labels(bank, index, prototypes, bar)
    with tempfile.TemporaryDirectory() as folder, bar("rows", rows) as progress:
        files, metadata = write_bank(
            Path(folder),
            vectors=bank.vectors,
            labels=labels.astype(np.int64),
            source_ids=np.arange(rows),
            classes=read_classes(classes, labels),
            encoder=encoder,
            weights=bank.frequencies,
            coefficients=bank.factors,
            dtype=dtype,
            progress=progress,
        )
        origin = {"layout": bank.layout, **origin}
        return repository.publish(files, metadata=metadata | {"origin": origin}, message=message)


def _labels(
    bank: ForeignBank, index: Path | None, prototypes: Sequence[Path], bar: ProgressBar
) -> tuple[Labels, dict[str, Any]]:
    rows, width = bank.vectors.shape
    if index is not None:
        return read_index(index, rows), {"labels": {"from": "index"}}
    if not prototypes:
        return np.full(rows, -1), {}
    known = read_prototypes(prototypes, width)
    with bar("labels", rows) as progress:
        labels, margins = known.label(bank.vectors, progress)
    report = {
        "from": "prototypes",
        "classes": len(known.classes),
        "leave_out_agreement": round(known.agreement, 4),
        "leave_out_features": known.judged,
        "median_margin": round(float(np.median(margins)), 4),
        "margin_of_worst_20th": round(float(np.quantile(margins, 0.05)), 4),
    }
    return labels, {"labels": report}
