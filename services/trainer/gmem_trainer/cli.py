"""``gmem train``. Imports torch and scikit-learn only when there is something to train."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gmem_shared import logs
from gmem_shared.announcements import announcing_store
from gmem_shared.console import output
from gmem_shared.errors import InvalidRequestError
from gmem_shared.settings import read_settings
from gmem_trainer.promotion import is_promoted

if TYPE_CHECKING:
    from gmem_trainer.presets import Preset
    from gmem_trainer.run import Outcome, Run

app = typer.Typer(add_completion=False, help="Embed, build, train, evaluate and publish.")

FOLDER_PRESET = "folder-small"


@app.command()
def train(
    preset: Annotated[
        str | None, typer.Option(help="recipe; with --data default: folder-small")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="folder: images in class sub-folders, or prepared latents")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="decides everything random")] = 0,
    store: Annotated[str | None, typer.Option(help="URL; default: GMEM_STORE__URL")] = None,
    name: Annotated[
        str | None, typer.Option(help="of bank and model; default: the folder's, or the preset's")
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="do nothing if the production alias exists")
    ] = False,
    publish: Annotated[
        bool, typer.Option(help="into the store; otherwise into one inside the workdir")
    ] = True,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="validation accuracy that the alias requires"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=4, help="side of the centre crops, in pixels")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="leave broken images out, with a warning")
    ] = False,
    encoder: Annotated[
        str | None, typer.Option(help="DINOv2 weights, a folder with an encoder, or identity")
    ] = None,
    latent_space: Annotated[
        str | None, typer.Option(help="pixels, sd-vae, va-vae …; default: the recipe's")
    ] = None,
    autoencoder: Annotated[
        Path | None, typer.Option(help="weights of the latent space's autoencoder")
    ] = None,
    bank: Annotated[
        str | None, typer.Option(help="full, most-used:K or compressed:D; default: the recipe's")
    ] = None,
    embed_with: Annotated[str, typer.Option(help="local or ray")] = "local",
    steps: Annotated[int | None, typer.Option(min=1, help="replaces the recipe's")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="of all processes; replaces the recipe's")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="replaces the recipe's")] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="steps between saves; default: the recipe's")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    sharded: Annotated[
        bool, typer.Option("--sharded", help="spread the weights over the processes (FSDP)")
    ] = False,
    workdir: Annotated[Path, typer.Option(help="state of unfinished runs")] = Path(".gmem/train"),
    tensorboard: Annotated[
        Path | None, typer.Option(help="folder of the curves; default: within the workdir")
    ] = None,
) -> None:
    """Train a recipe and publish its bank and model; run again, it resumes where it stopped."""
    settings = read_settings()
    logs.configure(settings.log)
    recipe_name = preset or (FOLDER_PRESET if data is not None else None)
    if recipe_name is None:
        raise InvalidRequestError(
            "expected images with --data FOLDER, or a recipe with --preset digits; found neither"
        )
    name = name or (_name_of(data) if data is not None else recipe_name)
    url = (store or settings.store.url) if publish else str(workdir / "store")
    place = settings.store.model_copy(update={"url": url})
    target = announcing_store(settings.model_copy(update={"store": place}))
    if if_missing and is_promoted(target, name):
        return

    from gmem_trainer.pipeline import execute
    from gmem_trainer.presets import preset as preset_of
    from gmem_trainer.progress import Display
    from gmem_trainer.run import Run, device_kind, engine_name

    recipe = _adapted(
        preset_of(recipe_name),
        training={"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate},
        image_size=image_size,
        latent_space=latent_space,
        bank=bank,
    )
    run = Run(
        preset=recipe,
        seed=seed,
        name=name,
        workdir=workdir,
        min_accuracy=recipe.min_accuracy if min_accuracy is None else min_accuracy,
        checkpoint_every=checkpoint_every or recipe.checkpoint_every,
        threads=threads,
        data=data,
        skip_unreadable=skip_unreadable,
        encoder=encoder,
        autoencoder=autoencoder,
        embed_with=engine_name(embed_with),
        device=device_kind(device, recipe),
        sharded=sharded,
        tensorboard=tensorboard,
        metrics=settings.trainer,
    )
    outcome = execute(run, target, Display(Console(stderr=True)))
    if outcome is not None:
        _show(run, outcome)
        if not outcome.promoted:
            raise typer.Exit(code=1)


def _adapted(
    recipe: Preset,
    *,
    training: dict[str, Any],
    image_size: int | None,
    latent_space: str | None,
    bank: str | None,
) -> Preset:
    """Replace what the user wants otherwise."""
    from gmem_trainer.banks import BankForm

    chosen = {name: value for name, value in training.items() if value is not None}
    changes: dict[str, Any] = {"training": dataclasses.replace(recipe.training, **chosen)}
    if image_size is not None:
        changes["image_size"] = image_size
    if latent_space is not None:
        changes["behaviour"] = dataclasses.replace(recipe.behaviour, latent_space=latent_space)
    if bank is not None:
        changes["bank"] = BankForm.parse(bank)
    return dataclasses.replace(recipe, **changes)


def _name_of(data: Path) -> str:
    """Turn a folder's name into one that banks and models may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", data.resolve().name.lower()).strip("-._")[:63] or "images"


def _show(run: Run, outcome: Outcome) -> None:
    evaluation = outcome.evaluation
    if "test" in evaluation:
        table = Table("", "validation", "test")
        for figure, value in evaluation["test"].items():
            if isinstance(value, float):
                table.add_row(figure, f"{evaluation['validation'][figure]:.3f}", f"{value:.3f}")
        output().print(table)
    bank = "" if outcome.bank is None else f"bank {outcome.bank.ref} and "
    output().print(f"published {bank}model {outcome.model.ref}")
    if not outcome.promoted:
        found = evaluation["validation"]["class_accuracy"]
        output().print(
            f"the aliases stay where they are: expected a validation accuracy of at least "
            f"{run.min_accuracy}, found {found}; train longer, or lower --min-accuracy",
            style="bold red",
        )
