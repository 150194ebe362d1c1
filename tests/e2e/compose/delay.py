"""A longer way between two containers.

The kernel's own delay (``tc netem``) is not built into every kernel, so the traffic is led through
a relay in the container's network namespace, which holds what it read for a while.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.e2e.compose.engine import HERE, Project, run

RELAY = HERE / "relay.py"
RELAY_PORT = 19_471
MARK = 17
"""Of the relay's own connections, which are led nowhere."""


@contextlib.contextmanager
def delayed(project: Project, service: str, other: str, milliseconds: int) -> Iterator[None]:
    """New connections from one container to another take this much longer each way, together.

    Connections that exist stay as they are, so the service is told to drop them: its packets to the
    other side are refused once.
    """
    namespace = ("nsenter", "-t", str(project.pid(project.container(service))), "-n")
    target = project.address(project.container(other))
    relay = subprocess.Popen(
        [
            *namespace,
            sys.executable,
            str(RELAY),
            target,
            str(RELAY_PORT),
            str(MARK),
            str(milliseconds / 2000),
        ],
        stdout=subprocess.PIPE,
    )
    assert relay.stdout
    assert relay.stdout.readline()
    redirect = (
        "OUTPUT", "-t", "nat", "-p", "tcp", "-d", target, "-m", "mark", "!", "--mark", str(MARK),
        "-j", "REDIRECT", "--to-ports", str(RELAY_PORT),
    )  # fmt: skip
    reset = (
        "OUTPUT", "-p", "tcp", "-d", target, "-m", "mark", "!", "--mark", str(MARK),
        "-j", "REJECT", "--reject-with", "tcp-reset",
    )  # fmt: skip
    run(*namespace, "iptables", "-I", *redirect)
    run(*namespace, "iptables", "-I", *reset)
    try:
        yield
    finally:
        run(*namespace, "iptables", "-D", *reset)
        run(*namespace, "iptables", "-D", *redirect)
        relay.terminate()
        relay.communicate()
