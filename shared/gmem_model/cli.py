"""``gmem model``: publish checkpoints that others published, and give them back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gmem_model.autoencoder.storage import WEIGHTS_FILE as AUTOENCODER
from gmem_model.encoders.dinov2 import PUBLISHED_VITB14
from gmem_model.engine.models import read_config
from gmem_model.exporting import Layout, export_model
from gmem_model.importing.architectures import Unshown
from gmem_model.importing.banks import read_bank
from gmem_model.importing.layouts import Checkpoint, read_checkpoint
from gmem_model.importing.model import Wishes
from gmem_model.importing.publishing import Memory, check_bank, publish_bank, publish_model
from gmem_model.presets import PRESETS
from gmem_model.published import Family
from gmem_shared import logs
from gmem_shared.announcements import announcing_store
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank
from gmem_shared.class_names import read_class_names
from gmem_shared.console import output
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderSpace, ClassName, Condition, ModelConfig
from gmem_shared.progress import progress_bar
from gmem_shared.settings import read_settings
from gmem_shared.store import OpenVersion, Repository, Store, Version
from gmem_shared.store.listing import listing
from gmem_shared.types import Reference

app = typer.Typer(no_args_is_help=True, help="Import, export and list models.")

Model = Annotated[str, typer.Argument(help="e.g. sit-xl, sit-xl@production, sit-xl@3")]

_bar = partial(progress_bar, console=Console(stderr=True))


@app.callback()
def _configure() -> None:
    logs.configure(read_settings().log)


@app.command("import")
def import_model(
    files: Annotated[
        list[Path], typer.Argument(help="the checkpoint; for GMem v1 also its bank.pth")
    ],
    name: Annotated[str, typer.Option(help="of the model to publish")],
    alias: Annotated[str | None, typer.Option(help="to point at the new versions")] = None,
    message: Annotated[str, typer.Option(help="kept in the log of versions")] = "",
    family: Annotated[
        Family | None, typer.Option(help="where the names of the weights mislead")
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="of sizes that were never published")
    ] = None,
    encoder_depth: Annotated[
        int | None, typer.Option(min=1, help="block after which projectors read")
    ] = None,
    keep_projectors: Annotated[
        bool, typer.Option("--keep-projectors", help="for an export; serving needs none")
    ] = False,
    encoder: Annotated[
        str, typer.Option(help="id of the snippet encoder; must be the bank's")
    ] = PUBLISHED_VITB14,
    default_bank: Annotated[
        str | None, typer.Option(help="to draw from; default: the file's own, else NAME")
    ] = None,
    bank_name: Annotated[
        str | None, typer.Option(help="for the bank in the file; default: NAME")
    ] = None,
    autoencoder: Annotated[
        Path | None, typer.Option(help="SD-VAE or VA-VAE; without it the model is not served")
    ] = None,
    latent_stats: Annotated[Path | None, typer.Option(help="latents_stats.pt of GMem v2")] = None,
    guide: Annotated[Path | None, typer.Option(help="second .pkl of EDM2's guidance")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=0, help="default")] = None,
    classes: Annotated[Path | None, typer.Option(help="JSON list of id, name, aliases")] = None,
    sampler: Annotated[str | None, typer.Option(help="default; else as published")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="default; else as published")] = None,
) -> None:
    """Publish a checkpoint of GMem, SiT, REPA or EDM2; nothing in its files is executed."""
    checkpoint = read_checkpoint(files[0], family)
    wishes = Wishes(
        unshown=Unshown(num_heads, encoder_depth),
        keep_projectors=keep_projectors,
        encoder=encoder,
        default_bank=default_bank or f"{name}@production",
        autoencoder=autoencoder,
        latent_stats=latent_stats,
        guide=None if guide is None else read_checkpoint(guide),
        guidance_scale=guidance_scale,
        classes=_class_names(classes),
        sampler=sampler,
        steps=steps,
    )
    store = _store()
    memory = None
    bank_file = _bank_file(files, checkpoint)
    if default_bank is not None and len(files) > 1:
        raise InvalidRequestError("expected a bank's file or --default-bank, found both")
    if bank_file is not None and default_bank is None:
        banks = store.repository("banks", bank_name or name)
        memory = partial(_publish_memory, banks, bank_file, encoder, alias, message)
    repository = store.repository("models", name)
    version = publish_model(repository, checkpoint, wishes, _bar, message, memory)
    _announce(repository, version, alias)
    _say_what_it_is(repository.open(version), checkpoint)


@app.command("export")
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="file to write")],
    layout: Annotated[Layout, typer.Option(help="of the program that will read it")],
    bank: Annotated[
        str | None, typer.Option(help="for layout v1; default: the one trained with")
    ] = None,
) -> None:
    """Write a model in the layout of the program that first published it."""
    store = _store()
    opened, config = _open(store, model)
    rows = None
    if layout == "v1":
        rows = _open_bank(store, bank or config.training_bank or config.default_bank)
    export_model(opened, config, layout, out, rows)
    output().print(f"wrote {out}", soft_wrap=True)


@app.command("list")
def list_models() -> None:
    """List the models of the store and where their aliases point."""
    output().print(listing(_store(), "models"))


@app.command()
def describe(model: Model) -> None:
    """Show the configuration of a version."""
    opened, config = _open(_store(), model)
    output().print(f"{opened.version.ref} {opened.version.digest}", soft_wrap=True)
    output().print_json(config.model_dump_json())


@app.command()
def presets() -> None:
    """List the architectures that have a name."""
    table = Table("name", "family", "latent", "condition")
    for name, a in PRESETS.items():
        latent = f"{a.in_channels} x {a.input_size} x {a.input_size}"
        table.add_row(name, a.family, latent, a.condition.kind)
    output().print(table)


def _store() -> Store:
    return announcing_store(read_settings())


def _open(store: Store, model: str) -> tuple[OpenVersion, ModelConfig]:
    reference = Reference.parse(model)
    repository = store.repository("models", reference.name)
    opened = repository.open(repository.resolve(reference.selector))
    return opened, read_config(opened)


def _open_bank(store: Store, bank: str | None) -> BankData | None:
    if bank is None:
        return None
    reference = Reference.parse(bank)
    repository = store.repository("banks", reference.name)
    return open_bank(repository.open(repository.resolve(reference.selector)))


def _bank_file(files: list[Path], checkpoint: Checkpoint) -> Path | None:
    if len(files) > 2:
        raise InvalidRequestError(
            f"expected a checkpoint and at most one bank, found {len(files)} files; the "
            f"frequencies of bank.pth are found beside it"
        )
    if len(files) == 2:
        return files[1]
    return files[0] if checkpoint.container == "one-file" else None


def _publish_memory(
    repository: Repository,
    file: Path,
    encoder: str,
    alias: str | None,
    message: str,
    condition: Condition,
) -> Memory:
    foreign = read_bank(file)
    check_bank(foreign, condition)
    bank = publish_bank(repository, foreign, encoder, _bar, message)
    _announce(repository, bank, alias)
    return Memory(f"{bank.name}@{alias or bank.digest}", f"{bank.name}@{bank.digest}")


def _class_names(path: Path | None) -> tuple[ClassName, ...]:
    known = [] if path is None else read_class_names(path)
    return tuple(ClassName(id=c.id, name=c.name, aliases=c.aliases) for c in known)


def _announce(repository: Repository, version: Version, alias: str | None) -> None:
    output().print(f"published {version.kind[:-1]} {version.ref} {version.digest}", soft_wrap=True)
    if alias is not None:
        record = repository.set_alias(alias, version, reason=version.message)
        output().print(f"alias {alias} -> {record.seq}")


def _say_what_it_is(opened: OpenVersion, checkpoint: Checkpoint) -> None:
    config = read_config(opened)
    a = config.architecture
    output().print(
        f"{checkpoint.family}, {checkpoint.container}: latent {a.in_channels} x {a.input_size} x "
        f"{a.input_size}, {config.default_sampler} in {config.default_steps} steps",
        soft_wrap=True,
    )
    if isinstance(config.latent_space, AutoencoderSpace) and AUTOENCODER not in opened.paths:
        output().print(
            "without an autoencoder it can be exported and studied, but not served: "
            "import it again with --autoencoder",
            style="bold",
        )
