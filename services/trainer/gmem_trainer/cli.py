"""``gmem train``. Imports torch and scikit-learn only when there is something to train."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gmem_shared import logs
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from gmem_trainer.promotion import is_promoted

if TYPE_CHECKING:
    from gmem_trainer.pipeline import Outcome, Run

app = typer.Typer(help="Embed, build, train, evaluate and publish.")

_console = Console()


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="recipe: digits")],
    seed: Annotated[int, typer.Option(min=0, help="decides everything random")] = 0,
    store: Annotated[str | None, typer.Option(help="URL; default: GMEM_STORE__URL")] = None,
    name: Annotated[str | None, typer.Option(help="of bank and model; default: preset")] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="do nothing if the production alias exists")
    ] = False,
    publish: Annotated[
        bool, typer.Option(help="into the store; otherwise into one inside the workdir")
    ] = True,
    min_accuracy: Annotated[
        float, typer.Option(min=0, max=1, help="validation accuracy that the alias requires")
    ] = 0.95,
    steps: Annotated[int | None, typer.Option(min=1, help="replaces the recipe's")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="steps between saves")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
    workdir: Annotated[Path, typer.Option(help="state of unfinished runs")] = Path(".gmem/train"),
) -> None:
    """Train a recipe and publish its bank and model; run again, it resumes where it stopped."""
    settings = Settings()
    logs.configure(settings.log)
    name = name or preset
    url = (store or settings.store.url) if publish else str(workdir / "store")
    target = Store.from_url(url, settings.store.cache_dir)
    if if_missing and is_promoted(target, name):
        return

    from gmem_trainer.pipeline import Run, execute
    from gmem_trainer.presets import preset as preset_of
    from gmem_trainer.progress import training_progress

    recipe = preset_of(preset)
    if steps is not None:
        training = dataclasses.replace(recipe.training, steps=steps)
        recipe = dataclasses.replace(recipe, training=training)
    run = Run(recipe, seed, name, workdir, min_accuracy, checkpoint_every, threads)
    outcome = execute(run, target, partial(training_progress, console=Console(stderr=True)))
    _show(run, outcome)
    if not outcome.promoted:
        raise typer.Exit(code=1)


def _show(run: Run, outcome: Outcome) -> None:
    table = Table("", "validation", "test")
    evaluation = outcome.evaluation
    for figure, value in evaluation["test"].items():
        if isinstance(value, float):
            table.add_row(figure, f"{evaluation['validation'][figure]:.3f}", f"{value:.3f}")
    _console.print(table)
    _console.print(f"published bank {outcome.bank.ref} and model {outcome.model.ref}")
    if not outcome.promoted:
        found = evaluation["validation"]["class_accuracy"]
        _console.print(
            f"the aliases stay where they are: expected a validation accuracy of at least "
            f"{run.min_accuracy}, found {found}; train longer, or lower --min-accuracy",
            style="bold red",
        )
