"""``gmem key``: make API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gmem_shared.errors import ConflictError
from gmem_shared.keys import new_key, read_keys, write_keys

app = typer.Typer(no_args_is_help=True, help="Make API keys.")


@app.callback()
def _group() -> None:
    """Make API keys."""


@app.command()
def new(
    id: Annotated[str, typer.Option(help="whose key it is; appears in logs and errors")],
    scope: Annotated[list[str], typer.Option(help="generate, read or admin; repeatable")],
    expires: Annotated[datetime | None, typer.Option(help="until when it is good, UTC")] = None,
    file: Annotated[Path | None, typer.Option(help="keys file to add the entry to")] = None,
) -> None:
    """Make a key and print it: this once, as only its digest is kept."""
    key, entry = new_key(id, scope, expires and expires.replace(tzinfo=UTC))
    if file is not None:
        entries = read_keys(file) if file.exists() else []
        if any(known.id == id for known in entries):
            raise ConflictError(
                f"expected a new id, found {id!r} in {file}; choose another, such as '{id}-2', and "
                "remove the old entry when nobody uses it"
            )
        write_keys(file, [*entries, entry])
    typer.echo(key)
    if file is None:
        typer.echo(entry.model_dump_json(exclude_defaults=True))
