"""``gmem triton``: run and probe the real tritonserver."""

from __future__ import annotations

import asyncio

import typer

from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_server import serve as become_tritonserver
from gmem_shared import logs, tls
from gmem_shared.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="Run the real tritonserver with our model.")


@app.command()
def serve() -> None:
    """Serve the model ``gmem``; settings are GMEM_TRITON__* and what the engine needs."""
    settings = read_settings()
    logs.configure(settings.log)
    become_tritonserver(settings)


@app.command()
def probe() -> None:
    """Ask the engine for a sign of life; exit status 1 and a reason when there is none.

    Triton's own readiness stays good when the process that holds the engine is dead.
    """
    settings = read_settings()
    backend = TritonBackend(
        f"{settings.triton.host}:{settings.triton.grpc_port}",
        heartbeat_seconds=settings.triton.heartbeat_seconds,
        credentials=tls.channel_credentials(settings.security),
        server_name=tls.own_name(settings.security),
    )
    asyncio.run(_check(backend))
    typer.echo("ready")


async def _check(backend: TritonBackend) -> None:
    await backend.start()
    try:
        await backend.check()
    finally:
        await backend.close()
