"""The loss of a batch as one module, which is what DDP and FSDP can wrap."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmem_model.losses import cosine_loss, projection_loss, regression
from gmem_model.network import Network
from gmem_model.paths import PathProcess
from gmem_model.transformer import Transformer
from gmem_shared.errors import InvalidRequestError
from gmem_trainer.training.batches import Batch
from gmem_trainer.training.recipe import TrainingRecipe


class Objective(nn.Module):
    """Compares a network's predictions with what a process asks for.

    Raises:
        InvalidRequestError: The recipe aligns projections and the network has none.
    """

    def __init__(self, network: Network, process: PathProcess, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.network = network
        self._process = process
        self._recipe = recipe
        self._projecting = recipe.projection_weight > 0
        if isinstance(network, Transformer):
            network.aligned.requires_grad_(self._projecting)
        if self._projecting and not (isinstance(network, Transformer) and len(network.aligned)):
            raise InvalidRequestError(
                "expected a network with projectors for a recipe with a projection_weight, found "
                "none: set projector_outputs in its architecture"
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the parts of the loss, each a mean over the batch, and their sum ``loss``."""
        recipe = self._recipe
        task = regression(
            self._process, batch.latents, batch.noise, batch.times, recipe.loss_weight
        )
        prediction, projections = self._predict(task.x_t, batch)
        parts = {"denoising": task.loss(prediction).mean()}
        loss = parts["denoising"]
        if recipe.cosine_weight:
            parts["cosine"] = cosine_loss(prediction, task.target).mean()
            loss = loss + recipe.cosine_weight * parts["cosine"]
        if self._projecting:
            parts["projection"] = projection_loss(projections, batch.features).mean()
            loss = loss + recipe.projection_weight * parts["projection"]
        return {"loss": loss, **parts}

    def _predict(self, x_t: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        network = self.network
        bf16 = self._recipe.precision == "bfloat16"
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=bf16):
            if self._projecting and isinstance(network, Transformer):
                prediction, projections = network.forward_with_projections(
                    x_t, batch.times, batch.conditions, keep=batch.keep
                )
                return prediction.float(), [projection.float() for projection in projections]
            return network(x_t, batch.times, batch.conditions, keep=batch.keep).float(), []
