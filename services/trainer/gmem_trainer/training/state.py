"""What a training run is between two steps, and how it survives a kill."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmem_model.network import Network
from gmem_shared.errors import CorruptVersionError
from gmem_trainer.training.parallel import World, like, whole
from gmem_trainer.training.recipe import TrainingRecipe
from gmem_trainer.workdir import replacing

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class TrainingState:
    """Weights, their running average, AdamW's moments and the number of steps done.

    The file holds whole tensors, so a run may go on with another number of processes.

    Args:
        network: On the device of ``world``, with its initial weights.
        recipe: Of the optimizer and the average.
        world: The processes that hold the state.
    """

    def __init__(self, network: Network, recipe: TrainingRecipe, world: World) -> None:
        self.step = 0
        self.network = network.train()
        self.averaged = copy.deepcopy(network).requires_grad_(requires_grad=False).eval()
        for spread in (self.network, self.averaged):
            world.shard(spread)
        self._world = world
        self._recipe = recipe
        self._trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(),
            recipe.learning_rate,
            recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )

    def descend(self) -> float:
        """Clip the gradients, take one step along them and forget them.

        Returns:
            Their norm before clipping.
        """
        limit = self._recipe.max_gradient_norm
        norm = nn.utils.clip_grad_norm_(
            self._trained.values(), float("inf") if limit is None else limit
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate_at(self.step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        return float(whole(norm))

    @torch.no_grad()
    def average(self) -> None:
        """Move the average towards the present weights."""
        weight = self._recipe.average.weight(self.step)
        pairs = zip(self.averaged.parameters(), self.network.parameters(), strict=True)
        for averaged, current in pairs:
            averaged.lerp_(current, weight)

    def save(self, path: Path) -> None:
        """Write the state; whoever reads sees the previous one or all of this one."""
        tensors = {name: whole(tensor) for name, tensor in self._tensors().items()}
        if self._world.first:
            with replacing(path) as partial:
                save_file(tensors, partial, {"step": str(self.step)})
        self._world.wait()

    def resume(self, path: Path) -> None:
        """Take over the state saved at ``path``; without such a file, do nothing.

        Raises:
            CorruptVersionError: The file is not such a state.
        """
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                for parameter in self._trained.values():
                    self._optimizer.state[parameter] = _no_moments(parameter)
                for name, tensor in self._tensors().items():
                    tensor.copy_(like(tensor, file.get_tensor(name)))
                self.step = int(file.metadata()["step"])
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise CorruptVersionError(
                f"expected the state of this training run in {path}, found something else "
                f"({error}); delete the file to train from the beginning"
            ) from error

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{n}": p for n, p in self.network.state_dict().items()}
        tensors |= {f"averaged.{n}": p for n, p in self.averaged.state_dict().items()}
        for name, parameter in self._trained.items():
            moments = self._optimizer.state[parameter]
            tensors |= {f"adamw.{key}.{name}": moments[key] for key in _MOMENTS}
        return tensors


def _no_moments(parameter: Tensor) -> dict[str, Tensor]:
    step = torch.zeros((), device=parameter.device)
    return {"step": step} | {key: torch.zeros_like(parameter) for key in _MOMENTS[1:]}
