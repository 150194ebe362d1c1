"""What a training run is between two steps, and how it survives a kill."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gmem_model.sit import SiT
from gmem_shared.errors import CorruptVersionError
from gmem_trainer.workdir import write_atomically


class TrainingState:
    """Weights, their running average, AdamW's moments and the number of steps done."""

    def __init__(self, network: SiT, *, learning_rate: float, beta2: float) -> None:
        self.step = 0
        self.network = network.train()
        self.averaged = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self._parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), learning_rate, (0.9, beta2), fused=True
        )

    def descend(self, learning_rate: float) -> None:
        """Take one optimizer step along the gradients that are there."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.step += 1

    @torch.no_grad()
    def average(self, exponent: float) -> None:
        """Update the average, whose width grows with the length of the run.

        Source: Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion
        models", equation 11.
        """
        weight = 1 - (1 - 1 / self.step) ** (exponent + 1)
        for averaged, current in zip(
            self.averaged.parameters(), self.network.parameters(), strict=True
        ):
            averaged.lerp_(current, weight)

    def save(self, path: Path) -> None:
        """Write the state; whoever reads sees the previous one or all of this one."""
        write_atomically(path, save(self._tensors(), {"step": str(self.step)}))

    def resume(self, path: Path) -> None:
        """Take over the state saved at ``path``; without such a file, do nothing.

        Raises:
            CorruptVersionError: The file is not such a state.
        """
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                self._restore(tensors)
                self.step = int(file.metadata()["step"])
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise CorruptVersionError(
                f"expected the state of this training run in {path}, found something else "
                f"({error}); delete the file to train from the beginning"
            ) from error

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{n}": p for n, p in self.network.state_dict().items()}
        tensors |= {f"averaged.{n}": p for n, p in self.averaged.state_dict().items()}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            tensors |= {f"adamw.{key}.{name}": value for key, value in moments.items()}
        return tensors

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.averaged.load_state_dict(part("averaged."))
        for name, parameter in self._parameters.items():
            keys = ("step", "exp_avg", "exp_avg_sq")
            moments = {key: tensors[f"adamw.{key}.{name}"] for key in keys}
            self._optimizer.state[parameter] = moments
