"""A small training run as a program, for one process or several.

``… FOLDER [--sharded] [--die-at STEP]`` writes ``weights.safetensors``, and one line per step to
``losses.jsonl`` as it is taken. It can kill itself, as ``kill -9`` does, when a step was taken.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

import torch
from safetensors.torch import save_file

from gmem_shared.model_config import LightningDiTArchitecture, SnippetCondition, Transport
from gmem_trainer.training.batches import Examples
from gmem_trainer.training.loop import Step, train
from gmem_trainer.training.parallel import joined
from gmem_trainer.training.recipe import TrainingRecipe

RECIPE = TrainingRecipe(
    steps=12,
    batch_size=8,
    learning_rate=1e-3,
    weight_decay=0.01,
    max_gradient_norm=0.5,
    times="lognormal",
    cosine_weight=1.0,
    projection_weight=0.5,
    snippet_dropout=True,
)
ARCHITECTURE = LightningDiTArchitecture(
    input_size=8,
    patch_size=4,
    in_channels=1,
    hidden_size=16,
    depth=2,
    num_heads=2,
    condition=SnippetCondition(dimension=12),
    projector_outputs=(6,),
    projector_dimension=8,
    encoder_depth=1,
)


def examples() -> Examples:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(32, *shape, generator=random)

    return Examples(normal(1, 8, 8), normal(12), (normal(4, 6),))


def main(folder: Path, *, sharded: bool, die_at: int | None) -> None:
    torch.set_num_threads(1)
    with joined("cpu", sharded=sharded) as world, (folder / "losses.jsonl").open("a") as log:

        def note(step: Step) -> None:
            line = {"step": step.number, "norm": step.gradient_norm} | step.losses
            log.write(json.dumps(line) + "\n")
            log.flush()
            if step.number == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        network = train(
            RECIPE,
            ARCHITECTURE,
            Transport(),
            examples(),
            seed=0,
            checkpoint=folder / "state.safetensors",
            checkpoint_every=2,
            report=note,
            world=world,
        )
        if world.first:
            save_file(network.state_dict(), folder / "weights.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--die-at", type=int)
    main(**vars(parser.parse_args()))
