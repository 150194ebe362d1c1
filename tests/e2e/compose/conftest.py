"""The images, built once, and the running project that all tests here share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.compose.engine import ROOT, Project, compose_files, registry_reached, run
from tests.support.stack import free_ports

NAME = "gmem-test"
SERVICES = ("generator", "prometheus", "grafana")


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A disk of 2 GiB, of which only what is written takes room."""
    image = tmp_path_factory.mktemp("disk") / "ext4"
    with image.open("wb") as file:
        file.truncate(2 << 30)
    run("mkfs.ext4", "-q", str(image))
    device = run("losetup", "--find", "--show", str(image)).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.fixture(scope="session")
def project(disk: str) -> Project:
    services = list(SERVICES)
    if not registry_reached():
        services.remove("grafana")  # of which no package exists
    generator, _, prometheus, grafana = free_ports(4)
    ports = {
        "STORE_DISK": disk,
        "GENERATOR_PORT": f"{generator}-{generator + 1}",  # of up to two replicas
        "PROMETHEUS_PORT": str(prometheus),
        "GRAFANA_PORT": str(grafana),
    }
    return Project(NAME, compose_files(), services, ports)


@pytest.fixture(scope="session")
def images(project: Project) -> None:
    project.build()


@pytest.fixture(scope="session")
def running(project: Project, images: None) -> Iterator[Project]:
    project.down()
    try:
        yield project
    finally:
        project.down()


@pytest.fixture(scope="session")
def verdicts() -> Iterator[list[tuple[str, ...]]]:
    """One line per fault; printed, and kept for the page that shows them."""
    lines: list[tuple[str, ...]] = []
    yield lines
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(f"\n{table}")
    Path(ROOT, ".gmem").mkdir(exist_ok=True)
    Path(ROOT, ".gmem", "fault-verdicts.md").write_text(table + "\n")
