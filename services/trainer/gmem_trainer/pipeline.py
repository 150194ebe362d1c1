"""One training run, from images to a served alias.

Each stage leaves its result where the next run of the same recipe and seed finds it, so a run that
was killed, at any moment, is completed by running it again: the encoder and the training state lie
in the run's own folder, bank and model in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from gmem_model import encoders
from gmem_model.encoders import SnippetEncoder
from gmem_model.network import Network
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank
from gmem_shared.model_config import Interpolant, ModelConfig
from gmem_shared.store import Store, Version
from gmem_shared.types import DEFAULT_ALIAS, Reference
from gmem_trainer.contrastive import train_encoder
from gmem_trainer.data import Dataset
from gmem_trainer.evaluation import evaluate
from gmem_trainer.generation import draw_rows, generate, grid
from gmem_trainer.judge import Judge
from gmem_trainer.presets import Preset
from gmem_trainer.promotion import promote
from gmem_trainer.publishing import publish_bank, publish_model
from gmem_trainer.training.batches import Examples
from gmem_trainer.training.loop import train
from gmem_trainer.workdir import write_atomically

_log = structlog.get_logger(__name__)

Progress = Callable[[int], AbstractContextManager[Callable[[int, float], None]]]
"""Number of steps to a context that is told the number and the loss of each of them."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to train, and where to put it.

    Attributes:
        preset: The recipe.
        seed: Decides encoder, weights, batches and evaluation.
        name: Of bank and model in the store.
        workdir: Keeps what is needed to resume.
        min_accuracy: Validation accuracy below which the aliases stay where they are.
        checkpoint_every: Steps between two saves of the training state.
        threads: CPU threads; other numbers than 1 may change the last bits of the weights.
    """

    preset: Preset
    seed: int
    name: str
    workdir: Path
    min_accuracy: float
    checkpoint_every: int = 50
    threads: int = 1

    @property
    def folder(self) -> Path:
        """Where this recipe with this seed keeps its state."""
        return self.workdir / self.preset.run_id(self.seed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run published, and whether it is served now."""

    bank: Version
    model: Version
    evaluation: dict[str, Any]
    promoted: bool


def execute(run: Run, store: Store, progress: Progress) -> Outcome:
    """Embed, build, train, evaluate, publish; move the aliases if the images are good enough."""
    preset = run.preset
    with _reproducible_torch(run.threads):
        dataset = preset.dataset(preset.split_seed)
        encoder, snippets = embed_training_images(run, dataset)

        banks = store.repository("banks", run.name)
        bank_version = publish_bank(banks, dataset, snippets, encoder.id)
        bank = open_bank(banks.open(bank_version))

        network = train_on_bank(run, dataset, bank, progress)
        config = ModelConfig(
            architecture=preset.architecture,
            encoder=encoder.id,
            default_bank=str(Reference(run.name, DEFAULT_ALIAS)),
            training_bank=str(Reference(run.name, bank_version.digest)),
            default_sampler=preset.sampler,
            default_steps=preset.sampler_steps,
        )

        def draw_and_generate(labels: NDArray[np.int32], seed: int) -> NDArray[np.uint8]:
            rows = draw_rows(bank, labels, seed)
            return generate(network, config, bank.vectors[rows].astype(np.float32), seed)

        judge = Judge(dataset.train, run.seed)
        evaluation = evaluate(dataset, judge, draw_and_generate, preset.images_per_class, run.seed)
        ten_each = np.repeat([info.id for info in dataset.classes], 10).astype(np.int32)
        samples = grid(draw_and_generate(ten_each, run.seed), columns=10)

    metadata = preset.describe() | {"seed": run.seed, "bank": bank_version.digest}
    models = store.repository("models", run.name)
    model_version = publish_model(
        models, network, config, encoder.files(), evaluation, samples, metadata
    )
    promoted = evaluation["validation"]["class_accuracy"] >= run.min_accuracy
    if promoted:
        promote(store, run.name, bank_version, model_version)
    return Outcome(bank_version, model_version, evaluation, promoted)


def embed_training_images(run: Run, dataset: Dataset) -> tuple[SnippetEncoder, NDArray[np.float32]]:
    """Train the encoder, or take the one this run trained before; embed with it.

    Returns:
        The encoder, and the snippets ``(n, d)`` of the training images.
    """
    if not (run.folder / encoders.CONFIG_FILE).exists():
        trained = train_encoder(dataset.train.pixels, run.preset.encoder, run.seed)
        files = SnippetEncoder.of(trained, run.preset.encoder.name).files()
        # The configuration comes last: where it is, the weights are.
        for file in (encoders.WEIGHTS_FILE, encoders.CONFIG_FILE):
            write_atomically(run.folder / file, files[file])
    encoder = encoders.load(run.folder)
    _log.info("encoder.ready", encoder=encoder.id)
    return encoder, encoder.embed(torch.from_numpy(dataset.train.pixels)).numpy()


def train_on_bank(run: Run, dataset: Dataset, bank: BankData, progress: Progress) -> Network:
    """Train the network on the bank's snippets, each with the image it was made from."""
    images = dataset.train.find(bank.source_ids).pixels
    recipe = run.preset.training
    with progress(recipe.steps) as show:
        return train(
            recipe,
            run.preset.architecture,
            Interpolant(),
            Examples(torch.from_numpy(images), torch.from_numpy(bank.vectors.astype(np.float32))),
            seed=run.seed,
            checkpoint=run.folder / "training.safetensors",
            checkpoint_every=run.checkpoint_every,
            report=lambda step: show(step.number, step.loss),
        )


@contextmanager
def _reproducible_torch(threads: int) -> Iterator[None]:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(mode=before[1])
