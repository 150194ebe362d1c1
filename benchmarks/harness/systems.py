"""The product in its four batching modes, and the peers: one network, one checkpoint, one core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.report import RESULTS, ROOT
from benchmarks.harness.servers import System, free_port
from benchmarks.peers.environments import environment

WORK = ROOT / ".gmem" / "bench"
STORE = ROOT / ".gmem" / "store"
PEERS_CODE = ROOT / "benchmarks" / "peers"

WINDOW_MS = 2.0
"""How long a fixed-window batch waits for company, in every system that has such a window."""


def results(*, quick: bool) -> Path:
    """Return where results go: a quick run must not replace the committed ones."""
    return WORK / "results" if quick else RESULTS


def prepare(store: Path = STORE) -> None:
    """Publish the digits model unless it is."""
    _run("gmem_shared", "train", "--preset", "digits", "--if-missing", "--store", str(store))


def export(store: Path = STORE) -> None:
    """Write the published digits model as the peers read it."""
    _run("benchmarks.peers.export", str(store), str(WORK))


def product(name: str, batching: str = "continuous", **settings: str) -> System:
    """Return ``gmem serve`` in one process, with bank and engine.

    Args:
        name: As the tables show it.
        batching: ``GMEM_ENGINE__BATCHING``.
        settings: Further settings, ``GENERATOR__MAX_WAITING_IMAGES="256"``.
    """
    chosen = {
        "STORE__URL": str(STORE),
        "LOG__LEVEL": "WARNING",
        "ENGINE__BATCHING": batching,
        "ENGINE__BATCH_WINDOW_MS": str(WINDOW_MS),
        "GENERATOR__DEFAULT_DEADLINE_MS": "600000",
    }
    variables = {f"GMEM_{key}": value for key, value in (chosen | settings).items()}
    return System(
        name,
        lambda port: [sys.executable, "-m", "gmem_shared", "serve", "--port", str(port)],
        lambda _: variables,
        body=lambda request: {**request, "sampler": "ab2"},
    )


def litserve() -> System:
    """Return LitServe."""
    python = environment("litserve", WORK / "venvs") / "python"
    script = PEERS_CODE / "litserve_server.py"
    return System(
        "LitServe",
        lambda port: [python, script, WORK, str(port), str(WINDOW_MS)],
        lambda _: {"PYTHONPATH": ""},
        path="/predict",
    )


def bentoml() -> System:
    """Return BentoML; its API takes the list of requests that a client has."""
    python = environment("bentoml", WORK / "venvs") / "python"
    served = ["serve", "bentoml_server:Digits", "--working-dir", PEERS_CODE]
    command = [python, "-m", "bentoml", *served]
    variables = {
        "BENCHMARK_FOLDER": str(WORK),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(WORK / "bentoml"),
        "PYTHONPATH": "",
    }
    return System(
        "BentoML",
        lambda port: [*command, "--host", "127.0.0.1", "--port", str(port)],
        lambda _: variables,
        body=lambda request: {"requests": [request]},
        images=lambda answer: answer[0]["images"],
    )


def pipeline() -> System:
    """Return FastAPI around a pipeline, one request at a time."""
    python = environment("pipeline", WORK / "venvs") / "python"
    return System(
        "pipeline server",
        lambda port: [python, PEERS_CODE / "pipeline_server.py", WORK, str(port)],
        lambda _: {"PYTHONPATH": ""},
    )


def triton() -> System:
    """Return Triton with its own dynamic batcher around whole requests."""

    def variables(port: int) -> Mapping[str, str]:
        return {
            "GMEM_TRITON__HTTP_PORT": str(port),
            "GMEM_TRITON__GRPC_PORT": str(free_port()),
            "GMEM_TRITON__METRICS_PORT": str(free_port()),
            "GMEM_TRITON__MODEL_REPOSITORY": str(PEERS_CODE / "model_repository"),
            "GMEM_TRITON__RUNTIME_DIR": str(WORK / "triton"),
            "BENCHMARK_FOLDER": str(WORK),
        }

    return System(
        "Triton dynamic batcher",
        lambda _: [sys.executable, "-m", "gmem_shared", "triton", "serve"],
        variables,
        path="/v2/models/gmem/generate",
        images=lambda answer: json.loads(answer["answer"])["images"],
    )


PRODUCT = {
    "continuous": "continuous",
    "grouped by steps": "grouped",
    "fixed window": "dynamic",
    "one at a time": "one_at_a_time",
}
"""Names in the tables, and modes of the engine."""

PEERS = {
    "LitServe": litserve,
    "BentoML": bentoml,
    "Triton dynamic batcher": triton,
    "pipeline server": pipeline,
}


def _run(*command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT)
