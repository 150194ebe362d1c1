"""Starts tritonserver with our model in it: an installed one, or the one in a wheel.

The ``nvidia-pytriton`` wheel is used as a box of binaries; its Python package is never imported.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import structlog

from gmem_shared.errors import NotReadyError
from gmem_shared.settings import SecuritySettings, Settings, TritonSettings
from gmem_shared.triton_io import MODEL_NAME, check_numpy

log = structlog.get_logger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where Triton and its Python stubs meet)


def serve(settings: Settings) -> NoReturn:
    """Become tritonserver: the process keeps its id, so signals and exit status are Triton's own.

    Triton's own chatter is shown at log level DEBUG only; its warnings and errors always.

    Raises:
        NotReadyError: Something that Triton needs is missing or in the way.
    """
    triton = settings.triton
    check_numpy(np.__version__)
    root = wheel_root() if triton.server_dir is None else installed_root(triton.server_dir)
    for port in (triton.http_port, triton.grpc_port, triton.metrics_port):
        check_port(triton.host, port)
    remove_stale_regions(region_prefix(triton))
    # The stub reads GMEM_*, AWS_* and what else its libraries know, as any entry point does.
    variables = os.environ.copy()  # noqa: TID251
    backends = root / "backends"
    if triton.server_dir is None:
        backends = lay_out_backends(triton.runtime_dir, root)
        variables = environment(variables, root)
    chatty = settings.log.level == "DEBUG"
    arguments = [*command(triton, root, backends, chatty=chatty), *encryption(settings.security)]
    log.info("triton.starting", host=triton.host, grpc_port=triton.grpc_port)
    os.execve(arguments[0], arguments, variables)  # noqa: S606


def installed_root(folder: Path) -> Path:
    """Return the folder of an installed tritonserver that can run Python models.

    Raises:
        NotReadyError: There is none.
    """
    if (folder / "bin" / "tritonserver").is_file() and (folder / "backends" / "python").is_dir():
        return folder
    raise NotReadyError(
        f"expected bin/tritonserver and backends/python in {folder}, found something else; set "
        "GMEM_TRITON__SERVER_DIR to /opt/tritonserver in NVIDIA's images, or unset it for the wheel"
    )


def wheel_root() -> Path:
    """Return the wheel's ``tritonserver`` folder.

    Raises:
        NotReadyError: The wheel is not installed, or holds no stub for this Python.
    """
    spec = importlib.util.find_spec("pytriton")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    root = Path(folders[0]) / "tritonserver" if folders else Path()
    if not (root / "bin" / "tritonserver").is_file():
        raise NotReadyError(
            "expected the tritonserver of the nvidia-pytriton wheel, found none; on Linux x86_64 "
            "run pip install 'gmem-serving[triton]', elsewhere use the embedded backend"
        )
    if not _stub(root).is_file():
        known = sorted(folder.name for folder in (root / "python_backend_stubs").iterdir())
        raise NotReadyError(
            f"expected a Python of {', '.join(known)} for Triton, found {_python_version()}"
        )
    return root


def lay_out_backends(runtime_dir: Path, root: Path) -> Path:
    """Link the Python backend with the stub of the running Python; return the backend folder."""
    python = runtime_dir.resolve() / "backends" / "python"
    python.mkdir(parents=True, exist_ok=True)
    backend = root / "backends" / "python"
    targets = [
        backend / "libtriton_python.so",
        backend / "triton_python_backend_utils.py",
        _stub(root),
    ]
    for target in targets:
        link = python / target.name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return python.parent


def command(settings: TritonSettings, root: Path, backends: Path, *, chatty: bool) -> list[str]:
    """Return tritonserver's command line.

    Raises:
        NotReadyError: There is no model repository.
    """
    repository = settings.model_repository or Path(__file__).parents[1] / "model_repository"
    if not (repository / MODEL_NAME / "config.pbtxt").is_file():
        raise NotReadyError(
            f"expected a model repository with {MODEL_NAME}/config.pbtxt, found none in "
            f"{repository}; set GMEM_TRITON__MODEL_REPOSITORY"
        )
    flags = {
        "model-repository": repository.resolve(),
        "backend-directory": backends,
        "backend-config": f"python,shm-region-prefix-name={region_prefix(settings)}",
        "http-address": settings.host,
        "http-port": settings.http_port,
        "grpc-address": settings.host,
        "grpc-port": settings.grpc_port,
        "metrics-address": settings.host,
        "metrics-port": settings.metrics_port,
        "exit-timeout-secs": settings.exit_timeout_seconds,
        # Notice clients that are cut off: without pings their streams live for hours.
        "grpc-keepalive-time": 10_000,
        "grpc-keepalive-timeout": 10_000,
        "log-info": str(chatty).lower(),
        "allow-gpu-metrics": str(settings.server_dir is not None).lower(),  # not in the wheel
        "pinned-memory-pool-byte-size": 0,
    }
    return [
        str(root / "bin" / "tritonserver"),
        *(f"--{name}={value}" for name, value in flags.items()),
        "--disable-auto-complete-config",
    ]


def encryption(security: SecuritySettings) -> list[str]:
    """Return the flags by which Triton's gRPC speaks TLS; its HTTP cannot."""
    if security.tls_cert_file is None:
        return []
    flags = ["--grpc-use-ssl=1", f"--grpc-server-cert={security.tls_cert_file.resolve()}"]
    return [
        *flags,
        f"--grpc-server-key={security.tls_key_file and security.tls_key_file.resolve()}",
    ]


def environment(base: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the environment in which server and stub find their libraries and this Python."""
    libraries = [str(root.parents[1] / "nvidia_pytriton.libs")]
    libdir = sysconfig.get_config_var("LIBDIR")
    if libdir and os.access(Path(libdir, str(sysconfig.get_config_var("INSTSONAME"))), os.R_OK):
        libraries.append(libdir)
    # The interpreter inside the stub takes the environment of the first `python3` on the path.
    binaries = [str(Path(sys.executable).parent)]
    return {
        **base,
        "LD_LIBRARY_PATH": _search_path(libraries, base.get("LD_LIBRARY_PATH")),
        "PATH": _search_path(binaries, base.get("PATH")),
    }


def region_prefix(settings: TritonSettings) -> str:
    """Return the prefix of this server's shared memory; its port is its own, and so is this."""
    return f"gmem_triton_{settings.grpc_port}_"


def remove_stale_regions(prefix: str, folder: Path = SHARED_MEMORY) -> None:
    """Remove the shared memory that a killed server with the same port left behind."""
    for region in folder.glob(f"{prefix}*"):
        log.info("triton.stale_region.removed", region=region.name)
        region.unlink(missing_ok=True)


def check_port(host: str, port: int) -> None:
    """Return when the port is free.

    Raises:
        NotReadyError: Something else listens there.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotReadyError(
                f"expected {host}:{port} to be free for Triton, found it in use ({error}); stop "
                "what listens there or set GMEM_TRITON__{HTTP,GRPC,METRICS}_PORT"
            ) from error


def _stub(root: Path) -> Path:
    return root / "python_backend_stubs" / _python_version() / "triton_python_backend_stub"


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _search_path(first: list[str], rest: str | None) -> str:
    return os.pathsep.join([*first, *([rest] if rest else [])])
