"""One training run, from images to a served alias.

Each stage leaves its result where the next run of the same recipe, data and seed finds it, so a run
that was killed, at any moment, is completed by running it again: encoder, shards and training state
lie in the workdir, bank and model in the store. With several processes all take part in preparation
and training; process 0 alone publishes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmem_model.network import Network
from gmem_model.networks import build
from gmem_shared.bank_format import open_bank
from gmem_shared.model_config import ClassName, ModelConfig, TransformerArchitecture
from gmem_shared.store import Store, Version
from gmem_shared.types import DEFAULT_ALIAS, Reference
from gmem_trainer.banks import Memory, remember
from gmem_trainer.data import Dataset, Images
from gmem_trainer.evaluation import evaluate
from gmem_trainer.examples import both_sides, examples
from gmem_trainer.gathering import gather
from gmem_trainer.generation import draw_rows, generate, grid
from gmem_trainer.judge import Judge
from gmem_trainer.material import Material
from gmem_trainer.monitor import Monitor, monitored
from gmem_trainer.observer import FolderObserver, Observer
from gmem_trainer.preparation.shards import LATENTS, SNIPPETS, TOKENS
from gmem_trainer.presets import fitted
from gmem_trainer.progress import SILENT, Display
from gmem_trainer.promotion import promote
from gmem_trainer.publishing import publish_bank, publish_model
from gmem_trainer.run import UNSEEN, Outcome, Run
from gmem_trainer.training.board import board
from gmem_trainer.training.loop import Step, train
from gmem_trainer.training.parallel import World, joined

EVALUATED_IMAGES = 10_000
"""Most images of each part of the data that an evaluation looks at."""

_SHOWN_CLASSES, _SHOWN_OF_EACH = 10, 10
_SHOWN_SIDE = 48


def execute(run: Run, store: Store, display: Display) -> Outcome | None:
    """Prepare, build the bank, train, evaluate, publish; move the aliases if the gate is passed.

    Returns:
        What process 0 published; ``None`` in the other processes.
    """
    with (
        joined(run.device, sharded=run.sharded) as world,
        _reproducible_torch(run.threads, world),
        monitored(run.metrics if world.first else UNSEEN) as monitor,
    ):
        shown = display if world.first else SILENT
        folder, material = gather(run, world, shown, monitor)
        memory = build_memory(run, material)
        bank = None
        if memory is not None and world.first:
            bank = publish_bank(store.repository("banks", run.name), material, memory)
            monitor.published("banks", bank)
        network = train_network(run, folder, material, memory, world, shown, monitor)
        if not world.first:
            return None
        model, evaluation = publish_judged(
            run, store, material, network, bank, world.device, monitor
        )
        accuracy = evaluation.get("validation", {}).get("class_accuracy")
        promoted = accuracy is None or accuracy >= run.min_accuracy
        if promoted:
            promote(store, run.name, bank, model)
        monitor.promoted(run.name, promoted=promoted)
    return Outcome(bank, model, evaluation, promoted)


def build_memory(run: Run, material: Material) -> Memory | None:
    """Decide what the bank keeps of the snippets; ``None`` for a network with class labels."""
    if not run.preset.takes_snippets:
        return None
    return remember(run.preset.bank, both_sides(material, SNIPPETS), len(material.prepared))


def train_network(
    run: Run,
    folder: Path,
    material: Material,
    memory: Memory | None,
    world: World,
    display: Display,
    monitor: Monitor,
) -> Network:
    """Train the recipe's network in the sizes of the data."""
    recipe, tensors = run.preset.training, material.prepared.tensors
    architecture = fitted(
        run.preset,
        tensors[LATENTS].shape[1:],
        tensors[SNIPPETS].shape[1] if memory is not None else None,
        tensors[TOKENS].shape[2] if run.preset.needs_tokens else None,
        len(material.classes),
    )
    num_tokens = None
    if run.preset.needs_tokens and isinstance(architecture, TransformerArchitecture):
        num_tokens = (architecture.input_size // architecture.patch_size) ** 2
    monitor.trains(recipe.steps)
    curves = run.tensorboard or folder / "tensorboard"
    with (
        display.training(recipe.steps) as show,
        board(curves, recipe.batch_size, time.perf_counter) as write,
    ):

        def report(step: Step) -> None:
            show(step.number, step.loss)
            write(step)
            monitor.stepped(step, recipe.batch_size)

        return train(
            recipe,
            architecture,
            run.preset.process,
            examples(material, memory, num_tokens),
            seed=run.seed,
            checkpoint=folder / "training.safetensors",
            checkpoint_every=run.checkpoint_every,
            report=report,
            world=world,
        )


def publish_judged(
    run: Run,
    store: Store,
    material: Material,
    network: Network,
    bank: Version | None,
    device: torch.device,
    monitor: Monitor,
) -> tuple[Version, dict[str, Any]]:
    """Measure a trained network's images and publish it with the figures."""
    monitor.enter("evaluate")
    network = without_projectors(network).to(device)
    config = configuration(run, material, network, bank)
    decoder = material.codec.to(device).decoder(config.latent_space)
    rows = None if bank is None else open_bank(store.repository("banks", run.name).open(bank))

    def make(labels: NDArray[np.int32], seed: int) -> NDArray[np.uint8]:
        if rows is None:
            conditions: NDArray[Any] = labels.astype(np.int64)
        else:
            conditions = rows.vectors[draw_rows(rows, labels, seed)].astype(np.float32)
        return generate(network, config, conditions, seed, decoder, device)

    evaluation: dict[str, Any] = {"protocol": "not evaluated: no images beside the latents"}
    if material.dataset is not None:
        images = material.dataset.sample(EVALUATED_IMAGES, run.seed)
        per_class = run.preset.images_per_class * (1 if material.classes else 10)
        observer = _observer(run, material, images, device)
        evaluation = evaluate(images, observer, make, per_class, run.seed)
        monitor.evaluated(evaluation)
    shown = [info.id for info in material.classes][:_SHOWN_CLASSES] or [-1] * _SHOWN_CLASSES
    pictures = make(np.repeat(shown, _SHOWN_OF_EACH).astype(np.int32), run.seed)
    zoom = max(1, _SHOWN_SIDE // pictures.shape[1])
    companions = material.codec.files()
    if bank is not None and material.encoder is not None:
        companions |= material.encoder.files()
    metadata = run.preset.describe() | {"seed": run.seed, "bank": bank.digest if bank else None}
    monitor.enter("publish")
    models = store.repository("models", run.name)
    samples = grid(pictures, columns=_SHOWN_OF_EACH, zoom=zoom)
    version = publish_model(
        models, network.cpu(), config, companions, evaluation, samples, metadata
    )
    monitor.published("models", version)
    return version, evaluation


def configuration(
    run: Run, material: Material, network: Network, bank: Version | None
) -> ModelConfig:
    """Describe a trained network to those who serve it."""
    behaviour, snippets = run.preset.behaviour, bank is not None
    return ModelConfig(
        architecture=network.architecture,
        latent_space=material.space,
        process=behaviour.process,
        guidance=behaviour.guidance,
        encoder=material.encoder_id if snippets else None,
        default_bank=str(Reference(run.name, DEFAULT_ALIAS)) if snippets else None,
        training_bank=str(Reference(run.name, bank.digest)) if bank else None,
        classes=() if snippets else tuple(
            ClassName(id=info.id, name=info.name, aliases=info.aliases)
            for info in material.classes
        ),
        default_sampler=behaviour.sampler,
        default_steps=behaviour.steps,
    )  # fmt: skip


def without_projectors(network: Network) -> Network:
    """Return a network without what only training needs."""
    architecture = network.architecture
    if not isinstance(architecture, TransformerArchitecture) or not architecture.projector_outputs:
        return network
    with torch.device("meta"):
        served = build(architecture.model_copy(update={"projector_outputs": ()}))
    weights = network.state_dict()
    served.load_state_dict({name: weights[name] for name in served.state_dict()}, assign=True)
    return served.requires_grad_(requires_grad=False).eval()


def _observer(
    run: Run, material: Material, images: Dataset[Images], device: torch.device
) -> Observer:
    if run.data is None:
        return Judge(images.train, run.seed)
    encoder = material.encoder
    return FolderObserver(images.train, None if encoder is None else encoder.to(device), device)


@contextmanager
def _reproducible_torch(threads: int, world: World) -> Iterator[None]:
    """Ask torch for the same bits every time; on a GPU, where that costs speed, for TF32."""
    on_gpu = world.device.type == "cuda"
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=not on_gpu)
    if on_gpu:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(mode=before[1])
