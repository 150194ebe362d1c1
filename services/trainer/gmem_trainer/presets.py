"""Named recipes: a data set, and everything that is decided about training on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gmem_model.presets import DIGITS
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import SiTArchitecture
from gmem_trainer import data
from gmem_trainer.contrastive import EncoderRecipe
from gmem_trainer.training.recipe import PowerAverage, TrainingRecipe


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to go from a data set to a served model."""

    name: str
    dataset: Callable[[int], data.Dataset]
    """Loads the data set and splits it by a seed."""
    split_seed: int
    """The same for every run, so that no run ever trains on what another one is judged by."""
    encoder: EncoderRecipe
    architecture: SiTArchitecture
    training: TrainingRecipe
    sampler: str
    sampler_steps: int
    images_per_class: int
    """Generated for each part of the evaluation."""

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON values, to be kept with what it produced."""
        return {
            "preset": self.name,
            "split_seed": self.split_seed,
            "encoder": asdict(self.encoder),
            "architecture": self.architecture.model_dump(mode="json"),
            "training": asdict(self.training),
            "sampler": {"name": self.sampler, "steps": self.sampler_steps},
            "images_per_class": self.images_per_class,
        }

    def run_id(self, seed: int) -> str:
        """Name the run of this recipe with this seed."""
        text = json.dumps(self.describe() | {"seed": seed}, sort_keys=True)
        return f"{self.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def digits() -> Preset:
    """8x8 digits on one core in well under a minute; see docs/adr/0006."""
    return Preset(
        name="digits",
        dataset=data.digits,
        split_seed=1797,
        encoder=EncoderRecipe(name="simclr64-digits"),
        architecture=DIGITS,
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
        sampler="ab2",
        sampler_steps=8,
        images_per_class=100,
    )


_PRESETS: dict[str, Callable[[], Preset]] = {"digits": digits}


def preset(name: str) -> Preset:
    """Return a named recipe.

    Raises:
        InvalidRequestError: No preset has this name.
    """
    if name not in _PRESETS:
        raise InvalidRequestError(f"expected one of {', '.join(_PRESETS)}; found {name!r}")
    return _PRESETS[name]()
