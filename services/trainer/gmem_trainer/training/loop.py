"""The training loop: flow matching on latents, each under its condition.

Everything random in step k comes from (seed, k), see `batches`. A run that was killed therefore
needs weights, averages, optimizer moments and a step number, and no generator state, to go on bit
for bit as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gmem_model.network import Network
from gmem_model.networks import build
from gmem_model.paths import PathProcess
from gmem_model.transformer import Transformer
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Architecture
from gmem_trainer.training.batches import Batches, Examples, generator
from gmem_trainer.training.objective import Objective
from gmem_trainer.training.parallel import ALONE, World, whole
from gmem_trainer.training.recipe import TrainingRecipe
from gmem_trainer.training.state import TrainingState


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was taken.

    Attributes:
        number: Steps done, this one included.
        losses: ``loss`` and its parts, means over the whole batch.
        gradient_norm: Before clipping.
        learning_rate: Of this step.
        averaged: The averaged network so far, in eval mode; spread over the processes where the
            weights are. Changes with the next step.
    """

    number: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    averaged: Network

    @property
    def loss(self) -> float:
        """What the step descended."""
        return self.losses["loss"]


Report = Callable[[Step], None]


def train(
    recipe: TrainingRecipe,
    architecture: Architecture,
    process: PathProcess,
    examples: Examples,
    *,
    seed: int,
    checkpoint: Path,
    checkpoint_every: int,
    report: Report,
    world: World = ALONE,
) -> Network:
    """Train a network and return its averaged weights, on the CPU and in eval mode.

    Args:
        recipe: Hyper-parameters.
        architecture: Family, sizes and condition of the network.
        process: How noise becomes data, and what the network predicts.
        examples: What to learn; the same for every process.
        seed: Decides the initial weights and every batch.
        checkpoint: Where the run's state is kept; training resumes from it if it exists.
        checkpoint_every: Steps between two saves.
        report: Called by process 0 after each step.
        world: The processes that train together.

    Raises:
        InvalidRequestError: The batch cannot be divided among the processes, or the recipe asks
            for something the network does not have.
    """
    if recipe.batch_size % world.size:
        raise InvalidRequestError(
            f"expected a batch_size divisible by the {world.size} processes, "
            f"found {recipe.batch_size}"
        )
    network = build(architecture, generator=generator(seed, 0)).to(world.device)
    objective = Objective(network, process, recipe)
    state = TrainingState(network, recipe, world)
    state.resume(checkpoint)
    compute = world.wrap(objective)
    keep_mask = network.keep_mask if isinstance(network, Transformer) else None
    batches = Batches(examples, recipe, process, seed, keep_mask, world.rank, world.size)

    for batch in batches.from_step(state.step + 1):
        rate = recipe.learning_rate_at(state.step)
        losses = compute(batch.to(world.device))
        losses["loss"].backward()
        norm = state.descend()
        state.average()

        values = world.mean(torch.stack(list(losses.values())).detach()).tolist()
        if world.first:
            named = dict(zip(losses, values, strict=True))
            report(Step(state.step, named, norm, rate, state.averaged))
        if state.step % checkpoint_every == 0 or state.step == recipe.steps:
            state.save(checkpoint)
    return gathered(state.averaged)


def gathered(network: Network) -> Network:
    """Return a network as one piece on the CPU; of a spread one every process must ask."""
    with torch.device("meta"):
        copy = build(network.architecture)
    copy.load_state_dict({n: whole(t) for n, t in network.state_dict().items()}, assign=True)
    return copy.requires_grad_(requires_grad=False).eval()
