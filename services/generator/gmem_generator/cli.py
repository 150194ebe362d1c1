"""``gmem serve``: the front end as a process."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prometheus_client import REGISTRY

from gmem_generator.app import create_app
from gmem_generator.serving import DrainingServer
from gmem_shared import logs
from gmem_shared.ports import load
from gmem_shared.settings import Settings
from gmem_shared.types import Reference

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
) -> None:
    """Serve images over HTTP; by default with bank and engine in the same process."""
    settings = Settings()
    logs.configure(settings.log)
    if model is not None:
        default = {"default_model": str(Reference.parse(model))}
        changed = settings.generator.model_copy(update=default)
        settings = settings.model_copy(update={"generator": changed})
    ours = settings.generator
    front = create_app(
        settings,
        _load("GMEM_GENERATOR__BANK_SOURCE", ours.bank_source).from_settings(settings),
        _load("GMEM_GENERATOR__BACKEND", ours.backend).from_settings(settings),
        REGISTRY,
    )
    DrainingServer(
        front,
        host=ours.host if host is None else host,
        port=ours.port if port is None else port,
        drain_seconds=ours.drain_seconds,
        announce=_announce,
    ).run()


def _load(setting: str, target: str) -> Any:
    try:
        return load(target)
    except ValueError as error:
        raise typer.BadParameter(f"{setting}: {error}") from error


def _announce(address: str) -> None:
    typer.echo(f"Serving on {address} (studio at /, API docs at /docs)")
