"""``gmem serve``: the front end as a process, or as several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import structlog
import typer
from prometheus_client import REGISTRY, start_http_server

from gmem_generator.app import create_app
from gmem_generator.serving import DrainingServer
from gmem_generator.workers import Workers
from gmem_shared import logs, tracing
from gmem_shared.errors import NotReadyError
from gmem_shared.ports import load
from gmem_shared.settings import GeneratorSettings, LogSettings, Settings, read_settings
from gmem_shared.types import Reference

_log = structlog.get_logger(__name__)

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; for an engine they can share.")
    ] = None,
) -> None:
    """Serve images over HTTP; by default with bank and engine in the same process."""
    settings = read_settings()
    default_model = None if model is None else str(Reference.parse(model))
    options = {"host": host, "port": port, "default_model": default_model, "workers": workers}
    given = {name: value for name, value in options.items() if value is not None}
    ours = settings.generator.model_copy(update=given)
    announce = partial(_announce, settings.log)
    if ours.workers == 1:
        _build(settings.model_copy(update={"generator": ours}), announce).run()
        return
    _check_shareable(ours)
    # Together the workers admit what one would.
    share = {"max_waiting_images": -(-ours.max_waiting_images // ours.workers)}
    settings = settings.model_copy(update={"generator": ours.model_copy(update=share)})
    build = partial(_build_worker, settings)
    many = Workers(build, announce, host=ours.host, port=ours.port, count=ours.workers)
    raise typer.Exit(many.run())


def _build(settings: Settings, announce: Callable[[str], None]) -> DrainingServer:
    logs.configure(settings.log)
    tracing.configure("gmem-generator")
    ours = settings.generator
    front = create_app(
        settings,
        _load("GMEM_GENERATOR__BANK_SOURCE", ours.bank_source).from_settings(settings),
        _load("GMEM_GENERATOR__BACKEND", ours.backend).from_settings(settings),
        REGISTRY,
    )
    front.state.keyring.announce(ours.host)
    return DrainingServer(
        front,
        host=ours.host,
        port=ours.port,
        leave_seconds=ours.leave_seconds,
        drain_seconds=ours.drain_seconds,
        announce=announce,
        security=settings.security,
    )


def _build_worker(settings: Settings, announce: Callable[[str], None]) -> DrainingServer:
    server = _build(settings, announce)
    _serve_metrics(settings.generator)
    return server


def _serve_metrics(ours: GeneratorSettings) -> None:
    """Serve this worker's metrics on the first port that no other worker has."""
    ports = range(ours.metrics_port, ours.metrics_port + ours.workers)
    for port in ports:
        try:
            start_http_server(port, ours.host, REGISTRY)
        except OSError:
            continue
        return
    raise NotReadyError(
        f"expected a free port for the metrics of a worker among {ports[0]} to {ports[-1]}, found "
        "none; stop what listens there or set GMEM_GENERATOR__METRICS_PORT"
    )


def _check_shareable(ours: GeneratorSettings) -> None:
    backend = _load("GMEM_GENERATOR__BACKEND", ours.backend)
    if not getattr(backend, "SHAREABLE", False):
        raise typer.BadParameter(
            f"expected a backend that {ours.workers} workers can share, found {ours.backend!r}, of "
            "which each would have its own; set GMEM_GENERATOR__BACKEND="
            "gmem_generator.triton_backend:TritonBackend, or serve with one worker"
        )


def _load(setting: str, target: str) -> Any:
    try:
        return load(target)
    except ValueError as error:
        raise typer.BadParameter(f"{setting}: {error}") from error


def _announce(log: LogSettings, address: str) -> None:
    if log.json_lines:
        _log.info("server.serving", address=address)
        return
    typer.echo(f"Serving on {address} (studio at /, API docs at /docs)")
