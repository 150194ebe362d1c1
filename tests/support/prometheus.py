"""A real Prometheus with the committed configuration, on a stack of this machine."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.observability import PROMETHEUS
from tests.support.stack import free_port, wait_for


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)

    def now(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives at this moment; bad PromQL fails the test."""
        answer = self.get("query", query=expression)
        assert answer.status_code == 200, f"{expression}\n{answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def lately(self, expression: str, seconds: float = 900.0) -> list[dict[str, Any]]:
        """What a panel of the last quarter of an hour draws."""
        end = time.time()
        answer = self.get("query_range", query=expression, start=end - seconds, end=end, step=1)
        assert answer.status_code == 200, f"{expression}\n{answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


def configuration(targets: Mapping[str, str]) -> dict[str, Any]:
    """The committed configuration with other addresses, and scrapes that a test can wait for."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job.pop("scrape_interval", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    return config


@contextlib.contextmanager
def running_prometheus(directory: Path, **ports: int) -> Iterator[Prometheus]:
    """A server that scrapes the ports of jobs on this machine."""
    directory.mkdir()
    port = free_port()
    targets = {job: f"127.0.0.1:{number}" for job, number in ports.items()}
    config = directory / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration(targets | {"prometheus": f"127.0.0.1:{port}"})))
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(
            lambda: httpx.get(f"{server.url}/-/ready", timeout=5).status_code == 200, "Prometheus"
        )
        yield server
    finally:
        process.terminate()
        process.wait(30)
