"""``gmem sample``: many images of one model, by many processes, in one file or folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gmem_shared import logs
from gmem_shared.console import output
from gmem_shared.settings import read_settings
from gmem_shared.store import Store
from gmem_trainer.sampling.job import SnippetRule

app = typer.Typer(
    add_completion=False, help="Make many images: resumable, on many processes and machines."
)


@app.command()
def sample(
    model: Annotated[str, typer.Option(help="e.g. digits, digits@production, digits@3")],
    num_images: Annotated[int, typer.Option(min=1)],
    out: Annotated[
        Path, typer.Option(help=".npz as ADM's evaluator reads it, or a folder of PNGs")
    ],
    bank: Annotated[str | None, typer.Option(help="default: the model's")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sampler: Annotated[str | None, typer.Option(help="default: the model's")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="default: the model's")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="default: the model's")
    ] = None,
    snippets: Annotated[
        SnippetRule | None,
        typer.Option(help="how an image finds its snippet; default: by-noise for GMem v1"),
    ] = None,
    label: Annotated[list[int] | None, typer.Option(help="class id; repeatable")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="equally many images of each class")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="images per batch; default: by the latents' size")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="on this machine; default: one per GPU or CPU core")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>")] = "auto",
    rank: Annotated[
        int,
        typer.Option(min=0, envvar=["RANK", "JOB_COMPLETION_INDEX"], help="this share's number"),
    ] = 0,
    world_size: Annotated[int, typer.Option(min=1, envvar="WORLD_SIZE", help="shares in all")] = 1,
    local_rank: Annotated[
        int | None,
        typer.Option(min=0, envvar="LOCAL_RANK", help="set by torchrun: one process, on this GPU"),
    ] = None,
    assemble: Annotated[
        bool, typer.Option("--assemble", help="make no images, write the output of finished ones")
    ] = False,
    store: Annotated[str | None, typer.Option(help="URL; default: GMEM_STORE__URL")] = None,
) -> None:
    """Make images of a model; run again after an interruption, it goes on where it stopped.

    Image i depends on the seed, i and the other parameters only: not on processes, machines or
    interruptions.
    """
    settings = read_settings()
    logs.configure(settings.log)

    from gmem_model.engine.cores import usable_cores
    from gmem_trainer.sampling.devices import choose_devices
    from gmem_trainer.sampling.progress import sampling_progress
    from gmem_trainer.sampling.resolve import Wishes, resolve_job
    from gmem_trainer.sampling.run import Share, assemble_only, run

    share = Share(rank, world_size)
    place = settings.store.model_copy(update={"url": store} if store else {})
    wishes = Wishes(
        model, num_images, bank, seed, sampler, steps, guidance_scale, snippets,
        tuple(label or ()), balanced, batch_size,
    )  # fmt: skip
    job = resolve_job(Store.from_settings(place), wishes)
    if assemble:
        assemble_only(job, out)
        complete = True
    else:
        devices = choose_devices(device, processes, local_rank, usable_cores())
        progress = partial(sampling_progress, console=Console(stderr=True))
        complete = run(job, out, place, devices, share, progress)
    if complete:
        output().print(f"{job.num_images} images of {job.model} in {out}", soft_wrap=True)
    else:
        output().print(f"share {rank} of {world_size} is done; others are still at work")
