"""Named recipes: everything that is decided about training on a data set."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from gmem_model.paths import PathProcess
from gmem_model.presets import preset as architecture_preset
from gmem_model.published import PUBLISHED, Behaviour
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import (
    EDM,
    Architecture,
    Interpolant,
    LabelCondition,
    SiTArchitecture,
    SnippetCondition,
    TransformerArchitecture,
)
from gmem_trainer import data
from gmem_trainer.banks import FULL, BankForm
from gmem_trainer.contrastive import EncoderRecipe
from gmem_trainer.training.recipe import PowerAverage, TrainingRecipe

_XL_CHECKPOINT_EVERY = 2500
"""Steps; such a checkpoint has about 11 GB."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to go from a data set to a served model.

    Attributes:
        architecture: What `fitted` adapts to the data.
        training: How the network is trained.
        behaviour: How it is sampled, and in which latent space it works.
        images_per_class: Generated for each part of the evaluation; without classes, ten times as
            many.
        image_size: Side of the images, unless the user wants another.
        encoder: How the encoder is trained on the data itself, if no weights of one are given;
            ``None`` if the recipe cannot do without them, or does without an encoder.
        flip: Whether mirrored images are trained on as well.
        bank: What the bank keeps of the snippets.
        dataset: Loads the recipe's own data set and splits it by a seed; ``None``: a folder.
        split_seed: The same for every run, so that no run ever trains on what another one is
            judged by.
        min_accuracy: Validation accuracy that the alias requires.
        max_tokens: Tokens per side beyond which patches grow; ``None`` leaves them as they are.
        on_gpu: Whether a GPU is used where there is one.
        checkpoint_every: Steps between two saves of the training state.
    """

    name: str
    architecture: Architecture
    training: TrainingRecipe
    behaviour: Behaviour
    images_per_class: int
    image_size: int
    encoder: EncoderRecipe | None = None
    flip: bool = False
    bank: BankForm = FULL
    dataset: Callable[[int], data.Dataset[data.Images]] | None = None
    split_seed: int = 0
    min_accuracy: float = 0.0
    max_tokens: int | None = None
    on_gpu: bool = True
    checkpoint_every: int = 50

    @property
    def process(self) -> PathProcess:
        """How noise becomes data.

        Raises:
            InvalidRequestError: It is no path between noise and data.
        """
        process = self.behaviour.process
        if isinstance(process, EDM):
            raise InvalidRequestError(
                f"expected an interpolant or a transport to train {self.name} with, found EDM"
            )
        return process

    @property
    def takes_snippets(self) -> bool:
        """Whether the network is conditioned on a bank's rows."""
        return self.architecture.condition.kind == "snippet"

    @property
    def needs_tokens(self) -> bool:
        """Whether an encoder's tokens are aligned with the network's."""
        return self.training.projection_weight > 0

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON values, to be kept with what it produced."""
        return {
            "preset": self.name,
            "split_seed": self.split_seed,
            "encoder": None if self.encoder is None else asdict(self.encoder),
            "architecture": self.architecture.model_dump(mode="json"),
            "training": asdict(self.training) | {"betas": list(self.training.betas)},
            "process": self.behaviour.process.model_dump(mode="json"),
            "latent_space": self.behaviour.latent_space,
            "sampler": {"name": self.behaviour.sampler, "steps": self.behaviour.steps},
            "image_size": self.image_size,
            "flip": self.flip,
            "bank": str(self.bank),
            "images_per_class": self.images_per_class,
        }

    def run_id(self, seed: int, data_id: str = "") -> str:
        """Name the run of this recipe with this seed on this data."""
        text = json.dumps(self.describe() | {"seed": seed, "data": data_id}, sort_keys=True)
        return f"{self.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def digits() -> Preset:
    """8x8 digits on one core in well under a minute; see docs/adr/0006."""
    return Preset(
        name="digits",
        architecture=architecture_preset("digits"),
        training=TrainingRecipe(
            steps=350,
            batch_size=128,
            learning_rate=6e-3,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            warmup_steps=20,
            decay=True,
            max_gradient_norm=1.0,
            average=PowerAverage(6.94),
            times="lognormal",
            snippet_noise=0.75,
        ),
        behaviour=Behaviour(Interpolant(), None, "ab2", 8, "pixels"),
        images_per_class=100,
        image_size=8,
        encoder=EncoderRecipe(name="simclr64-digits"),
        dataset=data.digits,
        split_seed=1797,
        min_accuracy=0.95,
        on_gpu=False,
    )


def folder_small() -> Preset:
    """A user's own images, small enough for a CPU: the digits recipe, wider and longer."""
    return Preset(
        name="folder-small",
        architecture=SiTArchitecture(
            input_size=32,
            patch_size=4,
            in_channels=3,
            hidden_size=128,
            depth=4,
            num_heads=4,
            condition=SnippetCondition(dimension=64, scale=math.sqrt(64)),
        ),
        training=replace(
            digits().training, steps=3000, batch_size=64, learning_rate=2e-3, warmup_steps=100
        ),
        behaviour=Behaviour(Interpolant(), None, "ab2", 16, "pixels"),
        images_per_class=50,
        image_size=32,
        encoder=EncoderRecipe(name="simclr64", steps=300),
        max_tokens=8,
    )


def gmem_v1_xl() -> Preset:
    """GMem v1 with SiT-XL/2 as published (arXiv 2412.08781)."""
    return Preset(
        name="gmem-v1-xl",
        architecture=architecture_preset("GMem-SiT-XL/2"),
        training=TrainingRecipe(
            steps=2_000_000,
            projection_weight=0.5,
            snippet_dropout=True,
            max_gradient_norm=1.0,
            precision="bfloat16",  # published: float16, which needs its loss scaled
        ),
        behaviour=PUBLISHED["gmem-v1"],
        images_per_class=1,
        image_size=256,
        flip=True,
        checkpoint_every=_XL_CHECKPOINT_EVERY,
        bank=BankForm("most-used", 640_000),
    )


def gmem_v2_xl() -> Preset:
    """GMem v2 with LightningDiT-XL/1 as published: 160 epochs of ImageNet."""
    return Preset(
        name="gmem-v2-xl",
        architecture=architecture_preset("LightningDiT-XL/1"),
        training=TrainingRecipe(
            steps=200_000,
            batch_size=1024,
            learning_rate=2e-4,
            betas=(0.9, 0.95),
            max_gradient_norm=1.0,
            times="lognormal",
            cosine_weight=1.0,
            projection_weight=0.5,
            snippet_dropout=True,
            precision="bfloat16",
        ),
        behaviour=PUBLISHED["gmem-v2"],
        images_per_class=1,
        image_size=256,
        flip=True,
        checkpoint_every=_XL_CHECKPOINT_EVERY,
    )


def sit_xl() -> Preset:
    """SiT-XL/2 with class labels as published (arXiv 2401.08740)."""
    return Preset(
        name="sit-xl",
        architecture=architecture_preset("SiT-XL/2"),
        training=TrainingRecipe(steps=7_000_000, label_dropout=0.1),
        behaviour=PUBLISHED["sit"],
        images_per_class=1,
        image_size=256,
        flip=True,
        checkpoint_every=_XL_CHECKPOINT_EVERY,
    )


def repa_xl() -> Preset:
    """SiT-XL/2 with REPA as published (arXiv 2410.06940)."""
    return Preset(
        name="repa-xl",
        architecture=architecture_preset("REPA-SiT-XL/2"),
        training=TrainingRecipe(
            steps=4_000_000,
            projection_weight=0.5,
            label_dropout=0.1,
            max_gradient_norm=1.0,
            precision="bfloat16",
        ),
        behaviour=PUBLISHED["repa"],
        images_per_class=1,
        image_size=256,
        flip=True,
        checkpoint_every=_XL_CHECKPOINT_EVERY,
    )


_PRESETS: dict[str, Callable[[], Preset]] = {
    "digits": digits,
    "folder-small": folder_small,
    "gmem-v1-xl": gmem_v1_xl,
    "gmem-v2-xl": gmem_v2_xl,
    "sit-xl": sit_xl,
    "repa-xl": repa_xl,
}


def preset(name: str) -> Preset:
    """Return a named recipe.

    Raises:
        InvalidRequestError: No preset has this name.
    """
    if name not in _PRESETS:
        raise InvalidRequestError(f"expected one of {', '.join(_PRESETS)}; found {name!r}")
    return _PRESETS[name]()


def fitted(
    preset: Preset,
    latent_shape: tuple[int, ...],
    snippet_dimension: int | None,
    token_width: int | None,
    num_classes: int,
) -> Architecture:
    """Return the recipe's architecture in the sizes of a data set.

    Args:
        preset: The recipe.
        latent_shape: C, S, S.
        snippet_dimension: Of the encoder, if there is one.
        token_width: Width of the encoder's tokens, if there are any.
        num_classes: Of the data set.

    Raises:
        InvalidRequestError: A network with labels is to be trained on images without classes.
    """
    a = preset.architecture
    channels, side, _ = latent_shape
    changes: dict[str, Any] = {"input_size": side, "in_channels": channels}
    if isinstance(a.condition, SnippetCondition) and snippet_dimension is not None:
        # The entries of a unit vector shrink with the square root of their number.
        scale = a.condition.scale * math.sqrt(snippet_dimension / a.condition.dimension)
        changes["condition"] = SnippetCondition(dimension=snippet_dimension, scale=scale)
    elif isinstance(a.condition, LabelCondition):
        if not num_classes:
            raise InvalidRequestError(
                f"expected images in class sub-folders for {preset.name}, found none: choose a "
                "recipe with snippets, or sort the images"
            )
        changes["condition"] = LabelCondition(num_classes=num_classes)
    if isinstance(a, TransformerArchitecture):
        if token_width is not None and a.projector_outputs:
            changes["projector_outputs"] = (token_width,)
        if preset.max_tokens is not None:
            changes["patch_size"] = max(a.patch_size, side // preset.max_tokens)
    return a.model_copy(update=changes)
