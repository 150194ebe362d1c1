"""``gmem store``: look at versions, verify them, move aliases, collect garbage."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table

from gmem_shared import logs
from gmem_shared.announcements import announcing_store
from gmem_shared.console import output
from gmem_shared.settings import read_settings
from gmem_shared.store.aliases import AliasRecord
from gmem_shared.store.gc import Retention
from gmem_shared.store.repository import Repository
from gmem_shared.store.store import Store
from gmem_shared.types import DEFAULT_ALIAS, Kind

app = typer.Typer(no_args_is_help=True, help="List, verify, alias and clean up versions.")
alias_app = typer.Typer(no_args_is_help=True, help="Move an alias, or see how it moved.")
app.add_typer(alias_app, name="alias")

Target = Annotated[str, typer.Argument(help="banks/<name> or models/<name>")]
Selector = Annotated[str, typer.Argument(help="alias, sequence number or digest")]
Alias = Annotated[str, typer.Argument(help="name of the alias")]
Reason = Annotated[str, typer.Option(help="kept in the alias's history")]


@app.callback()
def _configure() -> None:
    logs.configure(read_settings().log)


def _repository(target: str) -> Repository:
    kind, _, name = target.partition("/")
    store = announcing_store(read_settings())
    return store.repository(cast(Kind, kind), name)  # checks both


@app.command()
def check() -> None:
    """Try whether this store can be published to: that of two writers only one creates a file."""
    settings = read_settings().store
    Store.from_settings(settings).check()
    output().print(f"{settings.url}: answers, and of simultaneous writers one wins")


@app.command()
def versions(target: Target) -> None:
    """List the versions of a bank or model, oldest first."""
    repository = _repository(target)
    repository.latest()  # an unknown bank or model is an error, not an empty table
    aliases: dict[int, list[str]] = {}
    for alias, record in repository.aliases().items():
        aliases.setdefault(record.seq, []).append(alias)
    table = Table("seq", "digest", "published", "files", "bytes", "aliases", "message")
    for version in repository.versions():
        files = version.manifest.files
        table.add_row(
            str(version.seq),
            version.digest[:19],
            f"{version.published_at:%Y-%m-%d %H:%M:%S}",
            str(len(files)),
            f"{sum(entry.size for entry in files.values()):,}",
            ", ".join(aliases.get(version.seq, [])),
            version.message,
        )
    output().print(table)


@app.command()
def verify(target: Target, selector: Selector) -> None:
    """Read and check every byte of a version where it is stored."""
    repository = _repository(target)
    version = repository.resolve(selector)
    repository.verify(version)
    output().print(f"{version.ref} {version.digest}: every byte is as published")


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="for the private key; beside it: .pub")],
) -> None:
    """Make a pair of keys: one signs versions, the other tells who signed."""
    from gmem_shared.store.signing import make_keys  # its library is needed here only

    public = make_keys(file)
    output().print(
        f"{file}: keep it secret, set GMEM_STORE__SIGNING_KEY_FILE where you publish\n"
        f"{public}: add it to GMEM_STORE__TRUSTED_KEYS_FILE where you serve",
        soft_wrap=True,
    )


@app.command()
def sign(target: Annotated[str, typer.Argument(help="e.g. banks/digits@3")]) -> None:
    """Sign a published version with GMEM_STORE__SIGNING_KEY_FILE."""
    place, _, selector = target.partition("@")
    repository = _repository(place)
    version = repository.resolve(selector or DEFAULT_ALIAS)
    key = repository.sign(version)
    output().print(f"{version.ref} {version.digest}: signed by {key}", soft_wrap=True)


@alias_app.command("set")
def set_alias(target: Target, alias: Alias, selector: Selector, reason: Reason = "") -> None:
    """Point an alias at a version."""
    _print_moves([_repository(target).set_alias(alias, selector, reason)])


@alias_app.command()
def rollback(target: Target, alias: Alias, reason: Reason = "") -> None:
    """Point an alias back at the version before; repeat to go further back."""
    _print_moves([_repository(target).rollback(alias, reason)])


@alias_app.command()
def history(target: Target, alias: Alias) -> None:
    """Show every move of an alias, oldest first."""
    _print_moves(_repository(target).alias_history(alias))


def _print_moves(records: list[AliasRecord]) -> None:
    table = Table("generation", "alias", "seq", "digest", "at", "restores", "reason")
    for record in records:
        table.add_row(
            str(record.generation),
            record.alias,
            str(record.seq),
            record.digest[:19],
            f"{record.at:%Y-%m-%d %H:%M:%S}",
            "" if record.restores is None else str(record.restores),
            record.reason,
        )
    output().print(table)


@app.command()
def gc(
    target: Target,
    dry_run: Annotated[bool, typer.Option(help="only show what would be deleted")] = False,
    keep_versions: Annotated[int, typer.Option(min=1)] = Retention().versions,
    keep_targets: Annotated[int, typer.Option(min=1)] = Retention().alias_targets,
    grace_days: Annotated[float, typer.Option(min=0)] = Retention().grace / timedelta(days=1),
    settle_seconds: Annotated[float, typer.Option(min=0)] = Retention().settle.total_seconds(),
) -> None:
    """Delete what no alias, lease or recent version needs; waits before it deletes."""
    repository = _repository(target)
    retention = Retention(
        versions=keep_versions,
        alias_targets=keep_targets,
        grace=timedelta(days=grace_days),
        settle=timedelta(seconds=settle_seconds),
    )
    if dry_run:
        garbage = repository.garbage(retention)
    else:
        garbage = repository.collect_garbage(retention, time.sleep)
    table = Table("object", "bytes", "modified")
    for info in garbage:
        table.add_row(info.path, f"{info.size:,}", f"{info.modified:%Y-%m-%d %H:%M:%S}")
    output().print(table)
    output().print(f"{len(garbage)} objects {'would go' if dry_run else 'deleted'}")
