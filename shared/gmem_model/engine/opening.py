"""The engine that the settings ask for: in this process, or one process per core."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from gmem_model.engine.cores import usable_cores
from gmem_shared.settings import EngineSettings, Settings
from gmem_shared.store import Store

if TYPE_CHECKING:
    from gmem_model.engine.host import EngineHost
    from gmem_model.engine.pool.pool import EnginePool


GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, of AMD and of Windows' Linux show in a process's name space."""


def open_engine(settings: Settings, registry: CollectorRegistry) -> EngineHost | EnginePool:
    """Build the engine; starts nothing. Torch is imported only if it is to run in this process."""
    processes = engine_processes(settings.engine)
    if processes > 1 and not settings.store.url.startswith("memory:"):  # of this process alone
        from gmem_model.engine.pool.messages import Setup
        from gmem_model.engine.pool.pool import EnginePool

        setup = Setup(
            settings.store,
            settings.engine,
            settings.log,
            settings.generator.default_model,
            settings.redis,
        )
        return EnginePool(setup, processes, registry=registry)
    from gmem_model.engine.host import EngineHost

    return EngineHost(
        Store.from_settings(settings.store),
        settings.engine,
        poll_seconds=settings.store.poll_seconds,
        default_model=settings.generator.default_model,
        registry=registry,
        redis=settings.redis,
    )


def engine_processes(settings: EngineSettings) -> int:
    """Return how many processes evaluate: as the setting says, else one per core or for a GPU."""
    if settings.processes is not None:
        return settings.processes
    if settings.device != "cpu" and (settings.device != "auto" or _may_have_gpu()):
        return 1
    return max(1, usable_cores() // settings.threads)


def _may_have_gpu() -> bool:
    """Return whether a driver is there. Only torch knows for sure, and it takes seconds to ask."""
    return any(Path(device).exists() for device in GPU_DEVICES)
