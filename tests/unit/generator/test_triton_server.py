from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from gmem_generator import triton_server
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import LogSettings, Settings, TritonSettings
from tests.support.stack import free_ports

STUB = "python_backend_stubs/{}.{}/triton_python_backend_stub".format(*sys.version_info)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The folders of the wheel, with empty files."""
    root = tmp_path / "site" / "pytriton" / "tritonserver"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        STUB,
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root.parent / "__init__.py").write_text("raise ImportError('must not be imported')")
    return root


@pytest.fixture
def installed(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(wheel.parents[1])
    return wheel


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    http, grpc, metrics = free_ports(3)
    return Settings(
        triton=TritonSettings(
            http_port=http, grpc_port=grpc, metrics_port=metrics, runtime_dir=tmp_path / "run"
        )
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What the process would have become."""
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _path, argv, env: calls.append((argv, env)))
    return calls


def test_the_wheel_is_found_without_importing_it(installed) -> None:
    assert triton_server.wheel_root() == installed
    assert "pytriton" not in sys.modules


def test_a_platform_without_the_wheel_is_told_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotReadyError, match=r"gmem-serving\[triton\].*embedded"):
        triton_server.wheel_root()


def test_a_python_without_a_stub_is_named(installed) -> None:
    (installed / STUB).parent.rename(installed / "python_backend_stubs" / "3.0")
    with pytest.raises(
        NotReadyError, match=r"3\.0 for Triton, found {}\.{}".format(*sys.version_info)
    ):
        triton_server.wheel_root()


def test_numpy_2_is_refused_before_triton_starts(installed, settings, started, monkeypatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(NotReadyError, match=r"found numpy 2\.1\.0.*numpy<2"):
        triton_server.serve(settings)
    assert not started


def test_serve_becomes_tritonserver(installed, settings, started) -> None:
    triton_server.serve(settings)
    ((argv, env),) = started
    assert argv[0] == str(installed / "bin" / "tritonserver")
    assert f"--grpc-port={settings.triton.grpc_port}" in argv
    assert "--exit-timeout-secs=30" in argv
    assert "--allow-gpu-metrics=false" in argv
    assert "--disable-auto-complete-config" in argv
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    libraries = env["LD_LIBRARY_PATH"].split(os.pathsep)
    assert libraries[0] == str(installed.parents[1] / "nvidia_pytriton.libs")


def test_an_installed_server_brings_its_own_libraries(wheel, settings, started) -> None:
    triton = settings.triton.model_copy(update={"server_dir": wheel})
    triton_server.serve(settings.model_copy(update={"triton": triton}))
    ((argv, env),) = started
    assert argv[0] == str(wheel / "bin" / "tritonserver")
    assert f"--backend-directory={wheel / 'backends'}" in argv
    assert "--allow-gpu-metrics=true" in argv
    assert env == dict(os.environ)


def test_a_folder_without_a_server_is_told_apart(settings, started, tmp_path) -> None:
    triton = settings.triton.model_copy(update={"server_dir": tmp_path})
    with pytest.raises(NotReadyError, match="GMEM_TRITON__SERVER_DIR"):
        triton_server.serve(settings.model_copy(update={"triton": triton}))
    assert not started


def test_a_busy_port_is_named(installed, settings, started) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.triton.grpc_port))
        other.listen()
        with pytest.raises(NotReadyError, match=f"127.0.0.1:{settings.triton.grpc_port}"):
            triton_server.serve(settings)
    assert not started


def test_a_missing_model_repository_is_named(installed, settings, tmp_path) -> None:
    triton = settings.triton.model_copy(update={"model_repository": tmp_path})
    with pytest.raises(NotReadyError, match="GMEM_TRITON__MODEL_REPOSITORY"):
        triton_server.command(triton, installed, tmp_path, chatty=False)


@pytest.mark.parametrize(("level", "flag"), [("DEBUG", "true"), ("INFO", "false")])
def test_tritons_chatter_is_for_debugging(installed, settings, started, level, flag) -> None:
    triton_server.serve(settings.model_copy(update={"log": LogSettings(level=level)}))
    ((argv, _),) = started
    assert f"--log-info={flag}" in argv


def test_backends_are_laid_out_anew_at_each_start(wheel, tmp_path) -> None:
    run = tmp_path / "run"
    (run / "backends" / "python").mkdir(parents=True)
    (run / "backends" / "python" / "libtriton_python.so").symlink_to(tmp_path / "gone")
    for _ in range(2):
        backends = triton_server.lay_out_backends(run, wheel)
    assert {link.name for link in (backends / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_utils.py",
        "triton_python_backend_stub",
    }
    assert all(link.resolve().is_relative_to(wheel) for link in (backends / "python").iterdir())


def test_only_the_regions_of_the_same_server_are_removed(tmp_path) -> None:
    ours, other = (
        triton_server.region_prefix(TritonSettings(grpc_port=port)) for port in (820, 8201)
    )
    (tmp_path / f"{ours}a").touch()
    (tmp_path / f"{other}a").touch()
    triton_server.remove_stale_regions(ours, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{other}a"]


def test_the_callers_search_paths_are_kept(wheel) -> None:
    base = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib", "GMEM_X": "1"}
    env = triton_server.environment(base, wheel)
    assert env["PATH"].endswith(":/usr/bin")
    assert env["LD_LIBRARY_PATH"].endswith(":/opt/lib")
    assert env["GMEM_X"] == "1"
