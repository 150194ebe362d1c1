"""What to train, from what, where, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from gmem_shared.errors import InvalidRequestError
from gmem_shared.settings import TrainerSettings
from gmem_shared.store import Version
from gmem_trainer.preparation.engines import Engine
from gmem_trainer.presets import Preset
from gmem_trainer.training.parallel import DeviceKind

UNSEEN = TrainerSettings()
"""No port: the numbers of a run are served nowhere."""


def engine_name(text: str) -> Engine:
    """Return who is to prepare the data.

    Raises:
        InvalidRequestError: It is neither ``local`` nor ``ray``.
    """
    if text not in get_args(Engine):
        raise InvalidRequestError(
            f"expected --embed-with {' or '.join(get_args(Engine))}, found {text!r}"
        )
    return cast("Engine", text)


def device_kind(text: str, preset: Preset) -> DeviceKind:
    """Return where to train; ``auto`` follows the recipe.

    Raises:
        InvalidRequestError: There is no such kind of device.
    """
    if text not in get_args(DeviceKind):
        raise InvalidRequestError(f"expected --device auto, cpu or cuda, found {text!r}")
    return "cpu" if text == "auto" and not preset.on_gpu else cast("DeviceKind", text)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    Attributes:
        preset: The recipe.
        seed: Decides encoder, weights, batches and evaluation.
        name: Of bank and model in the store.
        workdir: Keeps what is needed to resume; with several machines, one that all see.
        min_accuracy: Validation accuracy below which the aliases stay where they are.
        checkpoint_every: Steps between two saves of the training state.
        threads: CPU threads; other numbers than 1 may change the last bits of the weights.
        data: A folder of images or of prepared latents; ``None`` for the recipe's own data.
        skip_unreadable: Leave broken images out instead of ending the run.
        encoder: See `gmem_trainer.material.given_encoder`; ``None`` for the recipe's own.
        autoencoder: Weights that lead into the recipe's latent space.
        embed_with: Who prepares the data.
        device: Where to train.
        sharded: Whether the processes share one set of weights.
        tensorboard: Folder of the curves; by default one in the run's own folder.
        metrics: Where Prometheus finds its numbers.
    """

    preset: Preset
    seed: int
    name: str
    workdir: Path
    min_accuracy: float
    checkpoint_every: int = 50
    threads: int = 1
    data: Path | None = None
    skip_unreadable: bool = False
    encoder: str | None = None
    autoencoder: Path | None = None
    embed_with: Engine = "local"
    device: DeviceKind = "auto"
    sharded: bool = False
    tensorboard: Path | None = None
    metrics: TrainerSettings = UNSEEN

    def folder(self, *data_id: str) -> Path:
        """Return where this recipe with this seed on this data keeps its state."""
        choices = json.dumps([*data_id, self.encoder, str(self.autoencoder)])
        return self.workdir / self.preset.run_id(self.seed, choices)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run published, and whether it is served now.

    Attributes:
        bank: ``None`` for a network with class labels.
    """

    bank: Version | None
    model: Version
    evaluation: dict[str, Any]
    promoted: bool
