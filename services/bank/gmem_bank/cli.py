"""``gmem bank``: serve banks, look at them, edit them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from gmem_bank import importing, publishing
from gmem_bank.local import LocalBank
from gmem_shared import logs, tracing
from gmem_shared.announcements import announcing_store
from gmem_shared.bank_format import tombstone as tombstone_rows
from gmem_shared.console import output
from gmem_shared.progress import progress_bar
from gmem_shared.settings import read_settings
from gmem_shared.store import Repository, Store, Version
from gmem_shared.store.listing import listing
from gmem_shared.types import BankInfo, DrawSpec, Reference, Snippets

app = typer.Typer(no_args_is_help=True, help="Serve, inspect and edit memory banks.")

Bank = Annotated[str, typer.Argument(help="e.g. digits, digits@production, digits@3")]
Name = Annotated[str, typer.Argument(help="name of the bank, without a version")]
Alias = Annotated[str | None, typer.Option(help="alias to point at the new version")]
Message = Annotated[str, typer.Option(help="kept in the log of versions")]


class Precision(StrEnum):
    """Number formats of stored vectors."""

    float16 = "float16"
    float32 = "float32"


@app.callback()
def _configure() -> None:
    logs.configure(read_settings().log)


@app.command()
def serve() -> None:
    """Serve gRPC and HTTP until a signal (settings: GMEM_BANK__*, GMEM_STORE__*)."""
    from gmem_bank.server import serve as serve_until_signal  # the servers are only needed here

    tracing.configure("gmem-bank")
    asyncio.run(serve_until_signal(read_settings()))


@app.command("list")
def list_banks() -> None:
    """List the banks of the store and where their aliases point."""
    output().print(listing(_store(), "banks"))


@app.command()
def describe(bank: Bank) -> None:
    """Show what a version holds."""
    with _local() as source:
        _print_info(source.service.describe(bank))


@app.command()
def draw(
    bank: Bank,
    seed: Annotated[int, typer.Option()] = 0,
    count: Annotated[int, typer.Option(min=1)] = 1,
    label: Annotated[list[int] | None, typer.Option(help="class id; repeatable")] = None,
    offset: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw rows, the same ones every time."""
    spec = DrawSpec(count, seed, tuple(label) if label else None, offset)
    with _local() as source:
        snippets, _ = source.service.draw(bank, [spec])
    _print_rows(snippets)


@app.command()
def search(
    bank: Bank,
    row: Annotated[int, typer.Argument(help="row whose neighbours to find")],
    count: Annotated[int, typer.Option(min=1)] = 10,
    label: Annotated[list[int] | None, typer.Option(help="class id; repeatable")] = None,
) -> None:
    """Find the rows most similar to a row of the bank."""
    with _local() as source:
        query = source.service.gather(bank, [row])
        bank = f"{query.version.name}@{query.version.seq}"
        found = source.service.search(bank, query.vectors.astype(np.float32), count, label)
    table = Table("row", "cosine", "label", "source id", title=str(found.version))
    columns = (found.rows, found.scores, found.labels, found.source_ids)
    for found_row, score, found_label, source_id in zip(
        *(c[0].tolist() for c in columns), strict=True
    ):
        if found_row >= 0:
            table.add_row(str(found_row), f"{score:.4f}", str(found_label), str(source_id))
    output().print(table)


@app.command()
def build(
    name: Name,
    features: Annotated[Path, typer.Argument(help=".npy vectors, or .safetensors with `vectors`")],
    encoder: Annotated[str, typer.Option(help="id of the encoder that made the vectors")],
    labels: Annotated[Path | None, typer.Option(help=".npy of class ids, -1 for none")] = None,
    source_ids: Annotated[Path | None, typer.Option(help=".npy of image ids")] = None,
    classes: Annotated[Path | None, typer.Option(help="JSON list of id, name, aliases")] = None,
    normalized: Annotated[bool, typer.Option(help="the vectors have length 1")] = False,
    alias: Alias = None,
    message: Message = "",
) -> None:
    """Publish a version from feature vectors."""
    arrays = publishing.read_features(features)
    for key, path in (("labels", labels), ("source_ids", source_ids)):
        if path is not None:
            arrays[key] = publishing.read_features(path)["vectors"]
    repository = _store().repository("banks", name)
    version = publishing.publish_features(
        repository, arrays, classes, encoder=encoder, normalized=normalized, message=message
    )
    _announce(repository, version, alias)


@app.command("import")
def import_bank(
    file: Annotated[Path, typer.Argument(help="bank of GMem v1 or v2, or .npy", exists=True)],
    name: Annotated[str, typer.Option(help="of the bank to publish")],
    encoder: Annotated[
        str | None, typer.Option(help="id of the encoder; default: DINOv2 as published")
    ] = None,
    frequencies: Annotated[
        Path | None, typer.Option(help="of a v1 bank; default: the sibling .freq file")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="class id of each row: .npy, .json, .txt or .csv")
    ] = None,
    prototypes: Annotated[
        list[Path] | None, typer.Option(help="labelled features that name classes; repeatable")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="JSON list of id, name, aliases")] = None,
    dtype: Annotated[Precision, typer.Option(help="what is stored")] = Precision.float16,
    alias: Alias = None,
    message: Message = "",
) -> None:
    """Publish a bank that others published; nothing in its file is executed."""
    repository = _store().repository("banks", name)
    version = importing.publish_foreign(
        repository,
        importing.read_foreign(file, frequencies),
        encoder=encoder or importing.published_encoder(),
        dtype=np.dtype(dtype.value),
        bar=partial(progress_bar, console=Console(stderr=True)),
        index=index,
        prototypes=prototypes or (),
        classes=classes,
        message=message,
    )
    _announce(repository, version, alias)
    _print_origin(version.manifest.metadata)


@app.command()
def tombstone(
    bank: Bank,
    row: Annotated[list[int] | None, typer.Option(help="row number; repeatable")] = None,
    source_id: Annotated[list[int] | None, typer.Option(help="image id; repeatable")] = None,
    alias: Alias = None,
    message: Message = "",
) -> None:
    """Publish a version without some rows; everything else is shared."""
    repository, version = _resolve(bank)
    new = tombstone_rows(
        repository, version, rows=row or (), source_ids=source_id or (), message=message
    )
    _announce(repository, new, alias)


@app.command()
def index(
    bank: Bank,
    factory: Annotated[
        str | None, typer.Option(help="HNSW<links>,… or IVF<lists>,…; default: by size")
    ] = None,
    min_recall: Annotated[float, typer.Option(min=0, max=1)] = 0.95,
    alias: Alias = None,
    message: Message = "",
) -> None:
    """Publish a version with an index for searches over many rows."""
    repository, version = _resolve(bank)
    metadata: Mapping[str, Any] = version.manifest.metadata
    with progress_bar("rows", metadata["rows"], Console(stderr=True)) as progress:
        new = publishing.publish_index(
            repository,
            version,
            factory,
            min_recall=min_recall,
            message=message,
            progress=progress,
        )
    _announce(repository, new, alias)
    _print_index(new.manifest.metadata)


def _store() -> Store:
    return announcing_store(read_settings())


def _resolve(bank: str) -> tuple[Repository, Version]:
    reference = Reference.parse(bank)
    repository = _store().repository("banks", reference.name)
    return repository, repository.resolve(reference.selector)


@contextmanager
def _local() -> Iterator[LocalBank]:
    source = LocalBank(_store(), read_settings(), CollectorRegistry())
    try:
        yield source
    finally:
        asyncio.run(source.close())


def _announce(repository: Repository, version: Version, alias: str | None) -> None:
    output().print(f"published {version.ref} {version.digest}", soft_wrap=True)
    if alias is not None:
        record = repository.set_alias(alias, version, reason=version.message)
        output().print(f"alias {alias} -> {record.seq}")


def _print_origin(metadata: Mapping[str, Any]) -> None:
    origin = metadata["origin"]
    output().print(f"{metadata['rows']} rows of {metadata['dimension']}, layout {origin['layout']}")
    if "rounding_error" in metadata:
        output().print(
            f"stored as {metadata['dtype']}, off by {metadata['rounding_error']} at worst"
        )
    for figure, value in origin.get("labels", {}).items():
        output().print(f"labels {figure.replace('_', ' ')}: {value}")


def _print_index(metadata: Mapping[str, Any]) -> None:
    index = metadata["index"]
    output().print(
        f"{index['factory']}: recall@10 {index['recall_at_10']} with effort {index['effort']}"
    )


def _print_info(info: BankInfo) -> None:
    output().print(
        f"{info.version} {info.version.digest}\n"
        f"{info.rows} rows of {info.dimension} x {info.dtype}, encoder {info.encoder}",
        soft_wrap=True,
    )
    table = Table("class", "name", "aliases", "rows")
    for row in info.classes:
        table.add_row(str(row.id), row.name, ", ".join(row.aliases), str(row.rows))
    output().print(table)


def _print_rows(snippets: Snippets) -> None:
    table = Table("row", "source id", "label", "weight", title=str(snippets.version))
    columns = (snippets.rows, snippets.source_ids, snippets.labels, snippets.weights)
    for row, source_id, label, weight in zip(*(c.tolist() for c in columns), strict=True):
        table.add_row(str(row), str(source_id), str(label), f"{weight:.3f}")
    output().print(table)
