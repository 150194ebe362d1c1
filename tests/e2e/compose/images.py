"""Builds what `make e2e-compose` runs, ahead of it: ``python -m tests.e2e.compose.images``."""

from __future__ import annotations

from tests.e2e.compose.engine import Project, compose_files

NO_DISK = {"STORE_DISK": "/dev/null"}
"""Nothing is started."""


def build() -> None:
    """Build our images, and stand-ins where no registry is reached."""
    Project("gmem-images", compose_files(), (), NO_DISK).build()


if __name__ == "__main__":
    build()
