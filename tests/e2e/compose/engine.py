"""A compose project on this machine's container engine, as an operator handles it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
BASE_IMAGE = "python:3.11-slim-bookworm"


def run(*command: str, check: bool = True, **options: Any) -> str:
    """Run a command; what it printed is the error's text when it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}"
    return done.stdout


def engine_runs() -> bool:
    """Whether containers can be started and composed here."""
    if shutil.which("docker") is None or compose_command() is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@functools.cache
def compose_command() -> tuple[str, ...] | None:
    """``docker compose``, or the older ``docker-compose``."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    if plugin.returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else None


@functools.cache
def registry_reached() -> bool:
    """Whether the images that compose names can be pulled."""
    pulled = subprocess.run(["docker", "pull", "-q", BASE_IMAGE], capture_output=True, timeout=600)
    return pulled.returncode == 0


def compose_files() -> list[Path]:
    """The project as committed; where no registry is reached, with stand-ins built from Debian."""
    files = [ROOT / "docker-compose.yml", HERE / "docker-compose.test.yml"]
    if not registry_reached():
        folder = os.environ.get("GMEM_TEST_STANDINS", "/var/tmp/gmem-standins")
        run("bash", str(HERE / "standins.sh"), folder)
        files.append(HERE / "docker-compose.standins.yml")
    return files


@dataclass
class Project:
    """The services of ``docker-compose.yml``.

    Args:
        services: Those to start; what they depend on comes along.
    """

    name: str
    files: Sequence[Path]
    services: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, check: bool = True) -> str:
        environment = os.environ | self.environment
        return run(*self._command, *arguments, check=check, cwd=ROOT, env=environment)

    @property
    def _command(self) -> list[str]:
        program = compose_command()
        assert program
        files = [part for path in self.files for part in ("-f", str(path))]
        return [*program, "-p", self.name, *files]

    def build(self) -> None:
        """Build our own images."""
        with local_wheels() as arguments:
            given = [
                part
                for key, value in arguments.items()
                for part in ("--build-arg", f"{key}={value}")
            ]
            self.compose("build", *given, "trainer", "triton", "bank", "generator")

    def up(self, *arguments: str) -> float:
        """Start, wait until every service is healthy; return the seconds it took."""
        begin = time.monotonic()
        self.compose("up", "-d", *arguments, *self.services)
        for service in self.services:
            self.wait_healthy(service)
        return time.monotonic() - begin

    def down(self) -> None:
        self.compose("down", "-v", "--remove-orphans", "-t", "5")

    def leftovers(self) -> list[str]:
        """Whatever the engine still has of this project."""
        label = f"label=com.docker.compose.project={self.name}"
        kinds = (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        return [line for kind in kinds for line in run("docker", *kind, "--filter", label).split()]

    def containers(self, service: str) -> list[str]:
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.name}"
        return run("docker", "ps", "-aq", "--filter", label, "--filter", project).split()

    def container(self, service: str) -> str:
        (only,) = self.containers(service)
        return only

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("docker", "inspect", container))[0]
        return found

    def pid(self, container: str) -> int:
        """The container's first process, as this machine sees it."""
        return int(self.inspect(container)["State"]["Pid"])

    def address(self, container: str) -> str:
        """On the project's internal network."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"]
        return str(networks[f"{self.name}_internal"]["IPAddress"])

    def healthy(self, service: str) -> bool:
        states = [self.inspect(container)["State"] for container in self.containers(service)]
        return bool(states) and all(
            state["Running"] and state.get("Health", {}).get("Status", "healthy") == "healthy"
            for state in states
        )

    def wait_healthy(self, service: str, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not self.healthy(service):
            assert time.monotonic() < end, self.logs(service)
            time.sleep(0.2)

    def logs(self, service: str) -> str:
        return self.compose("logs", "--no-color", "--tail", "60", service, check=False)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A compose command that goes on beside the test."""
        return subprocess.Popen(
            [*self._command, *arguments],
            cwd=ROOT,
            env=os.environ | self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def published(self, service: str) -> list[str]:
        """The addresses of a service on this machine, one for each replica."""
        return [
            f"http://{binding['HostIp']}:{binding['HostPort']}"
            for container in self.containers(service)
            for bindings in self.inspect(container)["NetworkSettings"]["Ports"].values()
            for binding in bindings or ()
        ]

    def metrics(self, service: str, port: int) -> str:
        """What Prometheus would scrape."""
        code = "from urllib.request import urlopen as o; print(o('{}').read().decode())"
        return self.execute(
            service, "python", "-c", code.format(f"http://127.0.0.1:{port}/metrics")
        )

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        return run("docker", "exec", self.container(service), *command, check=check)

    def crash(self, service: str) -> None:
        """SIGKILL from outside, as the kernel does it; return when the engine has restarted it."""
        container = self.container(service)
        before = self.pid(container)
        run("kill", "-9", str(before))
        end = time.monotonic() + 60
        while self.pid(container) in (0, before):
            assert time.monotonic() < end, self.logs(service)
            time.sleep(0.1)

    @contextlib.contextmanager
    def cut(self, service: str, other: str) -> Iterator[None]:
        """Drop every packet from one container to another: no reset, no error, silence."""
        namespace = ("nsenter", "-t", str(self.pid(self.container(service))), "-n")
        rule = ("OUTPUT", "-d", self.address(self.container(other)), "-j", "DROP")
        run(*namespace, "iptables", "-I", *rule)
        try:
            yield
        finally:
            run(*namespace, "iptables", "-D", *rule)

    @contextlib.contextmanager
    def paused(self, service: str) -> Iterator[None]:
        container = self.container(service)
        run("docker", "pause", container)
        try:
            yield
        finally:
            run("docker", "unpause", container)


_WHEELS_PORT = 18973
"""Always the same: it is part of what a layer is cached by."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def local_wheels() -> Iterator[dict[str, str]]:
    """What this machine's pip finds in a folder, image builds find over HTTP; yields build args."""
    folder = run("pip", "config", "get", "global.find-links", check=False).strip()
    if not Path(folder).is_dir():
        yield {}
        return
    bridge = json.loads(run("ip", "-j", "-4", "address", "show", "docker0"))
    gateway = bridge[0]["addr_info"][0]["local"]
    handler = functools.partial(_Quiet, directory=folder)
    with ThreadingHTTPServer((gateway, _WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {
                "PIP_FIND_LINKS": f"http://{gateway}:{server.server_port}",
                "PIP_TRUSTED_HOST": gateway,
            }
        finally:
            server.shutdown()
