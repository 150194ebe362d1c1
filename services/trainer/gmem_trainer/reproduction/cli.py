"""``gmem reproduce``. Imports torch only when there is something to train."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

app = typer.Typer(
    add_completion=False, help="Compare SiT, REPA and GMem at equal size on handwritten digits."
)

_console = Console()


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option(help="folder for table, plot and numbers")] = Path(
        "docs/reproduction"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="runs of each arm")] = 3,
    steps: Annotated[int, typer.Option(min=75, help="length of each run")] = 800,
    processes: Annotated[int, typer.Option(min=1, help="runs at a time, one core each")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Train every arm, and write ``digits.md``, ``digits.png`` and ``digits.json``."""
    from gmem_trainer.reproduction.report import markdown, write_report
    from gmem_trainer.reproduction.study import Protocol, describe, study

    usual = Protocol()
    looks = tuple(look for look in usual.looks if look < steps)
    protocol = Protocol(seeds=tuple(range(seeds)), looks=(*looks, steps))
    columns = ("training", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    workers = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    with Progress(*columns, console=Console(stderr=True)) as progress, workers as pool:
        task = progress.add_task("runs", total=protocol.runs)
        outcome = study(protocol, pool, lambda: progress.advance(task))
    write_report(out, outcome.arms, outcome.reference, describe(protocol, outcome))
    _console.print(Markdown(markdown(outcome.arms, outcome.reference)))
    _console.print(f"wrote {out / 'digits.md'}, {out / 'digits.png'} and {out / 'digits.json'}")
