"""The files of one bank version: write, open, tombstone. Specified in docs/formats/bank.md.

Rows are sorted by (label, source id), so a class is a slice and a filter costs nothing; rows
without a label come first. What decides which rows a draw may return, the tombstones and the
cumulative weights, is a file of its own: deleting rows publishes a version that shares all others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmem_shared.bank_checks import as_integers, check_columns, check_vectors, invalid
from gmem_shared.bank_data import BankData, shorten
from gmem_shared.bank_rows import Conversion, Progress, Rows
from gmem_shared.errors import (
    CorruptVersionError,
    NotFoundError,
    OutOfRangeError,
    UnknownRowError,
)
from gmem_shared.tensor_file import Streamed, map_tensors, write_tensors
from gmem_shared.types import ClassInfo

if TYPE_CHECKING:
    import pyarrow

    from gmem_shared.store import OpenVersion, Repository, Version

FORMAT = 1
DRAW_ALGORITHM = "philox4x32-10/1"
"""Names the draw of docs/formats/draw.md; another algorithm gets another name."""

SNIPPETS = "snippets.safetensors"
META = "meta.safetensors"
DRAW = "draw.safetensors"
CLASSES = "classes.json"
PROVENANCE = "provenance.parquet"
INDEX = "index.faiss"
COEFFICIENTS = "coefficients.safetensors"

Array = NDArray[Any]

_PROVENANCE_GROUP_ROWS = 65536


def write_bank(
    directory: Path,
    *,
    vectors: Rows,
    labels: NDArray[np.int32],
    source_ids: NDArray[np.int64],
    classes: Sequence[ClassInfo],
    encoder: str,
    weights: NDArray[np.integer[Any]] | None = None,
    provenance: pyarrow.Table | None = None,
    coefficients: Mapping[str, Array] | None = None,
    normalized: bool = False,
    dtype: np.dtype[Any] | None = None,
    progress: Progress = lambda rows: None,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the files of a bank version, ready for ``Repository.publish(files, metadata=…)``.

    The vectors are read once, in blocks: they may be larger than the memory.

    Args:
        directory: An existing folder that receives the files.
        vectors: Floating-point ``(n, d)``, finite and not zero.
        labels: int32 ``(n,)``, class ids, -1 for none.
        source_ids: int64 ``(n,)``, the image behind each row.
        classes: Every class of the label space, also those without rows.
        encoder: Id of the encoder that made the vectors.
        weights: integers ``(n,)`` in 0 … 2**32 - 1, how often a row is drawn; default 1.
        provenance: One record per row, in the order of ``vectors``.
        coefficients: The compressed form of the vectors: ``coefficients`` ``(n, k)`` in their
            order, ``basis`` ``(d, k)``, ``scales`` ``(k,)`` and ``mean`` ``(d,)``, float32.
        normalized: Whether the vectors have length 1.
        dtype: float16 or float32, what is stored; default: that of ``vectors``.
        progress: Told the number of rows written since it was told last.

    Returns:
        File name to path, and the metadata of the manifest.

    Raises:
        InvalidRequestError: The arrays do not make a servable bank.
    """
    labels = as_integers("labels", labels, np.int32)
    source_ids = as_integers("source_ids", source_ids, np.int64)
    given = np.ones(labels.shape, np.uint32) if weights is None else weights
    frequency = as_integers("weights", given, np.uint32)
    check_columns(vectors, labels, source_ids, frequency, classes)
    rows, width = vectors.shape
    if provenance is not None and len(provenance) != rows:
        raise invalid("provenance", f"expected {rows} records, found {len(provenance)}")
    conversion = Conversion(vectors, _stored_dtype(vectors, dtype))
    order = np.lexsort((source_ids, labels))
    labels, frequency = labels[order], frequency[order]
    classes = sorted(classes, key=lambda info: info.id)

    files = {name: directory / name for name in (SNIPPETS, META, DRAW, CLASSES)}
    chunks = _checked_chunks(conversion, order, normalized, progress)
    write_tensors(files[SNIPPETS], {"snippets": Streamed(conversion.dtype, (rows, width), chunks)})
    write_tensors(
        files[META],
        {
            "source_ids": source_ids[order],
            "labels": labels,
            "weights": frequency,
            "class_offsets": _class_offsets(labels, classes),
        },
    )
    _write_draw(files[DRAW], frequency, np.zeros(rows, np.bool_))
    _write_classes(files[CLASSES], classes)
    if provenance is not None:
        files[PROVENANCE] = directory / PROVENANCE
        _write_provenance(files[PROVENANCE], provenance.take(order))
    if coefficients is not None:
        files[COEFFICIENTS] = directory / COEFFICIENTS
        _write_coefficients(files[COEFFICIENTS], coefficients, order)
    metadata = {
        "format": FORMAT,
        "draw": DRAW_ALGORITHM,
        "encoder": encoder,
        "rows": rows,
        "dimension": width,
        "dtype": str(conversion.dtype),
        "normalized": normalized,
        "tombstones": 0,
    }
    if conversion.dtype != vectors.dtype:
        metadata["rounding_error"] = float(f"{conversion.worst_error:.3g}")
    return files, metadata


def open_bank(opened: OpenVersion) -> BankData:
    """Map a verified bank version into memory; copies no rows.

    Raises:
        CorruptVersionError: The files do not describe a bank of the format understood here.
    """
    version = opened.version
    metadata = version.manifest.metadata
    if metadata.get("format") != FORMAT or metadata.get("draw") != DRAW_ALGORITHM:
        raise CorruptVersionError(
            f"expected bank format {FORMAT} with draw {DRAW_ALGORITHM!r} in {version.ref}, found "
            f"{metadata.get('format')!r} with {metadata.get('draw')!r}; upgrade the reader"
        )
    try:
        vectors = map_tensors(opened.path(SNIPPETS))["snippets"]
        meta = map_tensors(opened.path(META))
        draw = map_tensors(opened.path(DRAW))
        classes = _read_classes(opened.path(CLASSES))
        offsets, cumulative = meta["class_offsets"], draw["cumulative_weights"]
        _check_lengths(vectors, meta, draw, len(classes))
        drawable, mean_weights = _groups(offsets, cumulative)
        return BankData(
            version=version.ref,
            encoder=str(metadata["encoder"]),
            normalized=bool(metadata["normalized"]),
            classes=tuple(
                ClassInfo(info.id, info.name, info.aliases, rows)
                for info, rows in zip(classes, drawable[1:], strict=True)
            ),
            vectors=vectors,
            labels=meta["labels"],
            source_ids=meta["source_ids"],
            weights=meta["weights"],
            class_offsets=offsets,
            cumulative_weights=cumulative,
            tombstones=draw["tombstones"],
            mean_weights=mean_weights,
        )
    except (NotFoundError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptVersionError(
            f"expected the files of bank {version.ref} to follow format {FORMAT}, but they do not "
            f"({error!r}); publish the version again"
        ) from error


def tombstone(
    repository: Repository,
    version: Version,
    *,
    rows: Sequence[int] = (),
    source_ids: Sequence[int] = (),
    message: str = "",
) -> Version:
    """Publish a version without the named rows; every file but one is shared with ``version``.

    Args:
        repository: The bank.
        version: The version to delete from; it stays as it is.
        rows: Row numbers of ``version``.
        source_ids: Images; all their rows are deleted.
        message: For the log of versions.

    Raises:
        UnknownRowError: A row or source id is not in the version.
        OutOfRangeError: No row would be left to draw.
    """
    data = open_bank(repository.open(version))
    deleted = np.unpackbits(data.tombstones, count=len(data), bitorder="little").astype(np.bool_)
    deleted[_rows_of(data, rows, source_ids)] = True
    if not data.weights[~deleted].any():
        raise OutOfRangeError(f"bank {data.version} would have no row left to draw; keep some")
    metadata = version.manifest.metadata | {"tombstones": int(deleted.sum())}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / DRAW
        _write_draw(path, data.weights, deleted)
        kept = {name: entry for name, entry in version.manifest.files.items() if name != DRAW}
        return repository.publish({DRAW: path}, metadata=metadata, message=message, reuse=kept)


def _rows_of(data: BankData, rows: Sequence[int], source_ids: Sequence[int]) -> NDArray[np.int64]:
    named = np.asarray(rows, np.int64)
    outside = named[(named < 0) | (named >= len(data))].tolist()
    wanted = np.asarray(source_ids, np.int64)
    absent = np.setdiff1d(wanted, data.source_ids).tolist()
    if outside or absent:
        raise UnknownRowError(
            f"expected rows and source ids of bank {data.version}, "
            f"found rows {shorten(outside) or 'none'}, source ids {shorten(absent) or 'none'}"
        )
    return np.concatenate([named, np.flatnonzero(np.isin(data.source_ids, wanted))])


def _stored_dtype(vectors: Rows, dtype: np.dtype[Any] | None) -> np.dtype[Any]:
    wanted = vectors.dtype if dtype is None else dtype
    if wanted not in (np.float16, np.float32):
        raise invalid("vectors", f"expected float16 or float32 to be stored, found {wanted}")
    return wanted


def _checked_chunks(
    conversion: Conversion, order: NDArray[np.int64], normalized: bool, progress: Progress
) -> Iterator[NDArray[Any]]:
    for rows, chunk in conversion.blocks(order):
        check_vectors(chunk, rows, normalized=normalized)
        yield chunk
        progress(len(rows))


def _class_offsets(labels: NDArray[np.int32], classes: Sequence[ClassInfo]) -> NDArray[np.int64]:
    starts = np.searchsorted(labels, np.asarray([info.id for info in classes], np.int32))
    return np.append(starts, len(labels)).astype(np.int64)


def _write_draw(path: Path, weights: NDArray[np.uint32], deleted: NDArray[np.bool_]) -> None:
    cumulative = np.zeros(len(weights) + 1, np.uint64)
    np.cumsum(np.where(deleted, 0, weights), dtype=np.uint64, out=cumulative[1:])
    tombstones = np.packbits(deleted, bitorder="little")
    write_tensors(path, {"cumulative_weights": cumulative, "tombstones": tombstones})


def _write_coefficients(
    path: Path, coefficients: Mapping[str, Array], order: NDArray[np.int64]
) -> None:
    given = coefficients["coefficients"]
    blocks = Conversion(given, given.dtype).blocks(order)
    in_order = Streamed(given.dtype, given.shape, (block for _, block in blocks))
    write_tensors(path, {**coefficients, "coefficients": in_order})


def _write_classes(path: Path, classes: Sequence[ClassInfo]) -> None:
    records = [{"id": c.id, "name": c.name, "aliases": list(c.aliases)} for c in classes]
    path.write_text(json.dumps({"classes": records}, ensure_ascii=False, indent=1))


def _read_classes(path: Path) -> list[ClassInfo]:
    records = json.loads(path.read_text())["classes"]
    return [ClassInfo(int(r["id"]), str(r["name"]), tuple(r["aliases"])) for r in records]


def _write_provenance(path: Path, table: pyarrow.Table) -> None:
    from pyarrow import parquet  # only a publisher needs pyarrow

    parquet.write_table(table, path, compression="zstd", row_group_size=_PROVENANCE_GROUP_ROWS)


def _check_lengths(
    vectors: NDArray[Any],
    meta: dict[str, NDArray[Any]],
    draw: dict[str, NDArray[Any]],
    num_classes: int,
) -> None:
    rows = len(vectors)
    expected = {
        "source_ids": rows,
        "labels": rows,
        "weights": rows,
        "class_offsets": num_classes + 1,
        "cumulative_weights": rows + 1,
        "tombstones": (rows + 7) // 8,
    }
    found = {name: len(array) for name, array in (meta | draw).items()}
    if found != expected or vectors.ndim != 2:
        raise ValueError(f"tensor lengths {found}, expected {expected}")


def _groups(
    offsets: NDArray[np.int64], cumulative: NDArray[np.uint64]
) -> tuple[list[int], NDArray[np.float64]]:
    """Count the drawable rows, and average their weight, of the unlabelled rows and each class."""
    bounds = np.concatenate([[0], offsets])
    drawable = [
        int(np.count_nonzero(cumulative[begin + 1 : end + 1] != cumulative[begin:end]))
        for begin, end in pairwise(bounds)
    ]
    totals = cumulative[bounds[1:]] - cumulative[bounds[:-1]]
    means = totals / np.maximum(drawable, 1)
    return drawable, np.where(means > 0, means, 1.0)
