"""Where commands print."""

from __future__ import annotations

from rich.console import Console


def output() -> Console:
    """Return standard output; what goes to a file or another program is not cut to a width."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000)
