"""``gmem``: one command line; each sub-command is imported only when it is used.

An image therefore needs only the extras of the sub-commands it runs.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from gmem_shared.errors import GmemError
from gmem_shared.ports import load

COMMANDS = {
    "bank": ("gmem_bank.cli:app", "Serve, inspect and edit memory banks."),
    "evaluate": ("gmem_trainer.scores.cli:app", "Measure images: FID, precision and others."),
    "key": ("gmem_shared.keys_cli:app", "Make API keys."),
    "model": ("gmem_model.cli:app", "Import, export and list models."),
    "reproduce": ("gmem_trainer.reproduction.cli:app", "Compare SiT, REPA and GMem on digits."),
    "sample": ("gmem_trainer.sampling.cli:app", "Make many images, as one resumable job."),
    "serve": ("gmem_generator.cli:app", "Serve images over HTTP; embedded by default."),
    "store": ("gmem_shared.store.cli:app", "List, verify, alias and clean up versions."),
    "train": ("gmem_trainer.cli:app", "Embed, build, train, evaluate and publish."),
    "triton": ("gmem_generator.triton_cli:app", "Run the real tritonserver with our model."),
}


class _LazyGroup(TyperGroup):
    """Knows its commands by import string. Typer keeps click's types private, hence ``Any``."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        target, summary = COMMANDS[cmd_name]
        command = typer.main.get_command(load(target))
        command.name, command.short_help = cmd_name, summary
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


app = typer.Typer(
    cls=_LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


@app.callback()
def _root() -> None:
    """Serve generative models that have an explicit memory."""


def main() -> None:
    """Run the command line; our own errors are shown as one sentence, exit status 1."""
    try:
        app()
    except GmemError as error:
        print(f"gmem: {error.detail}", file=sys.stderr)  # noqa: T201 (a command line speaks)
        sys.exit(1)
