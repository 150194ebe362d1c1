"""The engine that the settings ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gmem_model.engine import opening
from gmem_model.engine.host import EngineHost
from gmem_model.engine.opening import engine_processes, open_engine
from gmem_model.engine.pool.pool import EnginePool
from gmem_shared.settings import EngineSettings, Settings


@pytest.mark.parametrize(
    ("cores", "settings", "processes"),
    [
        (1, {}, 1),
        (8, {}, 8),
        (8, {"threads": 4}, 2),
        (2, {"threads": 4}, 1),
        (8, {"processes": 3}, 3),
        (1, {"processes": 2}, 2),
        (8, {"device": "cuda"}, 1),
        (8, {"device": "cuda:1", "processes": 2}, 2),
    ],
)
def test_there_is_a_process_per_core_unless_the_setting_says_otherwise(
    cores, settings, processes, monkeypatch
) -> None:
    monkeypatch.setattr(opening, "usable_cores", lambda: cores)
    monkeypatch.setattr(opening, "GPU_DEVICES", ())
    assert engine_processes(EngineSettings(**settings)) == processes


@pytest.mark.parametrize(("device", "processes"), [("auto", 1), ("cpu", 8)])
def test_where_a_gpu_may_be_one_process_uses_it(device, processes, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(opening, "usable_cores", lambda: 8)
    monkeypatch.setattr(opening, "GPU_DEVICES", (str(tmp_path),))
    assert engine_processes(EngineSettings(device=device)) == processes


@pytest.mark.parametrize(
    ("processes", "url", "kind"),
    [(1, "store", EngineHost), (2, "store", EnginePool), (2, "memory://here", EngineHost)],
)
def test_one_process_is_this_one(processes, url, kind, tmp_path: Path) -> None:
    settings = Settings(
        store={"url": url if ":" in url else str(tmp_path / url), "cache_dir": tmp_path},
        engine={"processes": processes},
    )
    assert isinstance(open_engine(settings, CollectorRegistry()), kind)


def test_a_process_that_has_engine_processes_needs_no_torch() -> None:
    code = (
        "import sys, gmem_model.embedded as e; from gmem_shared.settings import Settings; "
        "e.EmbeddedBackend.from_settings(Settings(engine={'processes': 2})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
