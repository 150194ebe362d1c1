"""The first stages of a run: find the data, get the encoder ready, prepare what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmem_model.encoders import SnippetEncoder
from gmem_shared.errors import InvalidRequestError
from gmem_trainer.codec import Codec
from gmem_trainer.data import Dataset
from gmem_trainer.folders import image_folder
from gmem_trainer.material import Material, from_images, from_shards, given_encoder, trained_encoder
from gmem_trainer.monitor import Monitor
from gmem_trainer.preparation.shards import holds_shards
from gmem_trainer.progress import Display
from gmem_trainer.run import Run
from gmem_trainer.training.parallel import World


def gather(run: Run, world: World, display: Display, monitor: Monitor) -> tuple[Path, Material]:
    """Return the folder in which the run keeps its state, and what it trains on."""
    preset = run.preset
    codec = Codec.open(preset.behaviour.latent_space, run.autoencoder)
    if run.data is not None and holds_shards(run.data):
        encoder = None if run.encoder is None else given_encoder(run.encoder, 3, preset.image_size)
        return run.folder(str(run.data.resolve())), from_shards(run.data, encoder, codec)
    dataset = load(run)
    folder = run.folder(dataset.train.fingerprint())
    with world.first_ahead():
        chosen = choose_encoder(run, folder, dataset)
    with display.preparation(len(dataset.train)) as show:

        def done(images: int) -> None:
            show(images)
            monitor.prepared(images)

        material = from_images(
            preset, dataset, chosen, codec, run.workdir, run.embed_with, run.threads, world, done
        )
    return folder, material


def load(run: Run) -> Dataset[Any]:
    """Open the data set of a run.

    Raises:
        InvalidRequestError: The recipe has none of its own and no folder was given.
    """
    preset = run.preset
    if run.data is not None:
        return image_folder(
            run.data,
            side=preset.image_size,
            seed=preset.split_seed,
            skip_unreadable=run.skip_unreadable,
        )
    if preset.dataset is None:
        raise InvalidRequestError(
            f"expected a folder of images for {preset.name}, found none; give one with --data"
        )
    return preset.dataset(preset.split_seed)


def choose_encoder(run: Run, folder: Path, dataset: Dataset[Any]) -> SnippetEncoder | None:
    """Return the encoder the user named, or the recipe's, trained on the data; ``None`` if unused.

    Raises:
        InvalidRequestError: The recipe needs weights and there are none.
    """
    preset = run.preset
    if not (preset.takes_snippets or preset.needs_tokens):
        return None
    if run.encoder is not None:
        return given_encoder(run.encoder, dataset.train.channels, preset.image_size)
    if preset.encoder is None:
        raise InvalidRequestError(
            f"expected the weights of an encoder for {preset.name}, found none; give a file of "
            "DINOv2 ViT-B/14 with --encoder"
        )
    return trained_encoder(folder, dataset, preset.encoder, run.seed)
