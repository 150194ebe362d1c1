"""``gmem evaluate``: FID, sFID, Inception Score, precision and recall of a set of images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from gmem_shared import logs
from gmem_shared.console import output
from gmem_shared.progress import progress_bar
from gmem_shared.settings import read_settings

if TYPE_CHECKING:
    from gmem_trainer.scores.scores import Scores

app = typer.Typer(add_completion=False, help="Measure a set of images against real ones.")


_NAMES = {
    "inception": ("FID", "sFID", "Inception Score"),
    "dinov2": ("FD-DINOv2", "", ""),
    "digits": ("Fréchet distance (digits)", "", "Inception Score (digits)"),
    "pixels": ("Fréchet distance (pixels)", "", ""),
}
"""What the Fréchet distances and the score are called in each feature space."""


@app.command()
def evaluate(
    samples: Annotated[Path, typer.Argument(help=".npz with arr_0, or a folder of pictures")],
    reference: Annotated[
        Path, typer.Option(help=".npz with mu and sigma or arr_0 or all, or a folder of pictures")
    ],
    features: Annotated[
        Literal["inception", "dinov2", "digits", "pixels"], typer.Option(help="where to compare")
    ] = "inception",
    weights: Annotated[
        Path | None, typer.Option(help="of Inception or DINOv2, .pth or .safetensors")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:<number>")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="write the scores here")] = None,
) -> None:
    """Measure a set of images as the evaluator of ADM does."""
    logs.configure(read_settings().log)

    from gmem_trainer.sampling.devices import choose_devices
    from gmem_trainer.scores.features import open_extractor
    from gmem_trainer.scores.images import open_images
    from gmem_trainer.scores.reference import open_reference
    from gmem_trainer.scores.scores import score

    (chosen,) = choose_devices(device, processes=1, local_rank=None, num_cores=1)
    images, real = open_images(samples), open_reference(reference)
    extract = open_extractor(features, weights, chosen)
    total = len(images) + (len(real.images) if real.images else 0)
    with progress_bar("looking at images", total, Console(stderr=True)) as report:
        scores = score(images, real, extract, batch_size, report)
    output().print(_table(scores, _NAMES[features]))
    if json_file is not None:
        result = asdict(scores) | {
            "features": features, "samples": str(samples), "reference": str(reference),
        }  # fmt: skip
        json_file.write_text(json.dumps(result, indent=2))


def _table(scores: Scores, names: tuple[str, str, str]) -> Table:
    frechet, spatial, inception = names
    table = Table("score", "value", title=f"{scores.images:,} images")
    for name, value, digits in (
        (frechet, scores.frechet, 4),
        (spatial, scores.spatial_frechet, 4),
        (inception, scores.inception_score, 3),
        ("precision", scores.precision, 4),
        ("recall", scores.recall, 4),
    ):
        if value is not None:
            table.add_row(name, f"{value:.{digits}f}")
    return table
