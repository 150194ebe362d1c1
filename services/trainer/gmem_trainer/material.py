"""What a run works with: prepared examples, and where they come from.

Weights that the user gives are read where they lie. A recipe that trains its encoder on the data
leaves the result in the run's folder, where the next run finds it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
import torch
from numpy.typing import NDArray

from gmem_model import encoders
from gmem_model.encoders import SnippetEncoder
from gmem_model.encoders.dinov2 import PUBLISHED_VITB14
from gmem_model.encoders.foreign import import_dinov2
from gmem_model.encoders.identity import Identity
from gmem_model.importing.latent_statistics import read_latent_statistics
from gmem_model.latents import LatentScaling
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LatentSpace
from gmem_shared.types import ClassInfo
from gmem_trainer.codec import Codec
from gmem_trainer.contrastive import EncoderRecipe, train_encoder
from gmem_trainer.data import Dataset
from gmem_trainer.preparation.engines import Done, Engine
from gmem_trainer.preparation.maker import ShardMaker
from gmem_trainer.preparation.shards import FLIPPED, LATENTS, Prepared, find_shards
from gmem_trainer.preparation.stage import prepare
from gmem_trainer.presets import Preset
from gmem_trainer.training.parallel import World
from gmem_trainer.workdir import write_atomically

_log = structlog.get_logger(__name__)

SHARD_ROWS = 10_000
LATENT_STATISTICS = "latents_stats.pt"

_ENCODER_IMAGES = 20_000
"""Most images that an encoder is trained on: SimCLR holds them in memory."""


@dataclass(frozen=True, slots=True)
class Material:
    """Prepared examples.

    Attributes:
        name: Of the data set.
        classes: Its classes; empty without labels.
        prepared: Latents, snippets, tokens and labels.
        codec: Leads from the unscaled latents back to pixels.
        space: Of the scaled latents.
        encoder_id: Of what made the snippets; ``None`` without snippets.
        encoder: The encoder itself, if it is at hand.
        normalized: Whether the snippets have unit length.
        dataset: The images, if they are at hand.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    prepared: Prepared
    codec: Codec
    space: LatentSpace
    encoder_id: str | None
    encoder: SnippetEncoder | None
    normalized: bool
    dataset: Dataset[Any] | None

    @property
    def scaling(self) -> LatentScaling:
        """From unscaled latents to the network's."""
        return LatentScaling.of(self.space)

    @property
    def flipped(self) -> bool:
        """Whether mirrored images were prepared, too."""
        return LATENTS + FLIPPED in self.prepared.tensors

    def provenance(self, source_ids: NDArray[np.int64]) -> pa.Table | None:
        """Describe images, if they are at hand."""
        return None if self.dataset is None else self.dataset.provenance(source_ids)


def from_images(
    preset: Preset,
    dataset: Dataset[Any],
    encoder: SnippetEncoder | None,
    codec: Codec,
    workdir: Path,
    engine: Engine,
    threads: int,
    world: World,
    done: Done,
) -> Material:
    """Embed and encode the training images of a data set.

    The shards lie in a folder named by everything that decides their content, and serve every run
    that needs the same.
    """
    maker = ShardMaker(
        source=dataset.train,
        folder=workdir / f"prepared-{_content_id(preset, dataset, encoder, codec)}",
        shard_rows=SHARD_ROWS,
        latents=codec.to(world.device).encoder,
        encoder=None if encoder is None else encoder.to(world.device),
        tokens=preset.needs_tokens,
        flip=preset.flip,
        device=world.device,
        threads=threads,
    )
    prepared = prepare(maker, engine, world, done)
    return Material(
        name=dataset.name,
        classes=dataset.classes,
        prepared=prepared,
        codec=codec,
        space=_space(codec, prepared),
        encoder_id=None if encoder is None else encoder.id,
        encoder=encoder,
        normalized=encoder is not None and encoder.normalized,
        dataset=dataset,
    )


def from_shards(folder: Path, encoder: SnippetEncoder | None, codec: Codec) -> Material:
    """Open latents that were prepared elsewhere, in the layout of GMem v2.

    Their scaling is read from ``latents_stats.pt`` beside them, or measured. Snippets are taken to
    be those of DINOv2 ViT-B/14 as published, unless an encoder is given.

    Raises:
        InvalidRequestError: The folder holds no such shards.
    """
    prepared = Prepared.open(find_shards(folder))
    labels = np.unique(prepared.labels)
    statistics = folder / LATENT_STATISTICS
    scaling = read_latent_statistics(statistics) if statistics.is_file() else None
    return Material(
        name=folder.resolve().name,
        classes=tuple(ClassInfo(int(i), str(i)) for i in labels if i >= 0),
        prepared=prepared,
        codec=codec,
        space=_space(codec, prepared, scaling),
        encoder_id=PUBLISHED_VITB14 if encoder is None else encoder.id,
        encoder=encoder,
        normalized=encoder is not None and encoder.normalized,
        dataset=None,
    )


def _space(codec: Codec, prepared: Prepared, scaling: LatentScaling | None = None) -> LatentSpace:
    if scaling is None and codec.is_measured:
        some = prepared.tensors[LATENTS][codec.rows_to_measure(len(prepared))]
        scaling = LatentScaling.measure(torch.from_numpy(some))
    return codec.space(scaling)


def _content_id(
    preset: Preset, dataset: Dataset[Any], encoder: SnippetEncoder | None, codec: Codec
) -> str:
    content = {
        "data": dataset.train.fingerprint(),
        "encoder": None if encoder is None else encoder.id,
        "codec": [codec.name, codec.digest],
        "tokens": preset.needs_tokens,
        "flip": preset.flip,
        "shard_rows": SHARD_ROWS,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def trained_encoder(
    folder: Path, dataset: Dataset[Any], recipe: EncoderRecipe, seed: int
) -> SnippetEncoder:
    """Train an encoder on the training images, or take the one that was trained before."""
    if not (folder / encoders.CONFIG_FILE).exists():
        images = dataset.sample(_ENCODER_IMAGES, seed).train
        files = SnippetEncoder.of(train_encoder(images.pixels, recipe, seed), recipe.name).files()
        # The configuration comes last: where it is, the weights are.
        for file in (encoders.WEIGHTS_FILE, encoders.CONFIG_FILE):
            write_atomically(folder / file, files[file])
    encoder = encoders.load(folder)
    _log.info("encoder.ready", encoder=encoder.id)
    return encoder


def given_encoder(choice: str, channels: int, side: int) -> SnippetEncoder:
    """Open the encoder a user named.

    Args:
        choice: ``identity``, a folder with ``encoder.json`` and ``encoder.safetensors``, or a file
            with published weights of DINOv2.
        channels: Of the images.
        side: Of the images.

    Raises:
        InvalidRequestError: It is none of these.
    """
    if choice == "identity":
        return SnippetEncoder.of(Identity(channels, side), "identity")
    path = Path(choice)
    if path.is_dir():
        return encoders.load(path)
    if not path.is_file():
        raise InvalidRequestError(
            "expected identity, a folder with an encoder, or a file with weights of DINOv2 as the "
            f"encoder, found {choice!r}"
        )
    return SnippetEncoder.of(import_dinov2(path), "dinov2")
