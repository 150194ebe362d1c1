"""The batch of a step: drawn from (seed, step) alone, whatever the number of processes.

Every process draws the same random numbers for the whole batch and then keeps its own part. A run
on eight processes therefore sees what a run on one does, and a run that was killed needs no
generator state to go on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gmem_model.losses import training_times
from gmem_model.paths import PathProcess
from gmem_trainer.training.recipe import TrainingRecipe

KeepMask = Callable[[int, torch.Generator], Tensor]
"""Number of rows and source of randomness to the mask of a network's condition."""


class Rows(Protocol):
    """One value per example; a tensor is one, and so are the shards of a prepared data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Return the values of these rows, int64 ``(k,)``, as a tensor ``(k, …)``."""
        ...


@dataclass(frozen=True, slots=True)
class Examples:
    """What a network is trained on, row by row.

    Attributes:
        latents: float32 ``(n, C, S, S)``, scaled as the network samples them.
        conditions: Snippets, float32 ``(n, d)``, or class ids, int64 ``(n,)``.
        features: Per projector the features its tokens are aligned with: ``(n, T, Z)``, or
            ``(n, 1, Z)`` for one vector that all tokens are aligned with.
    """

    latents: Rows
    conditions: Rows
    features: tuple[Rows, ...] = ()

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process computes in one step; ``(N, …)`` each, see `Examples`.

    Attributes:
        keep: Mask of the condition's entries, see `gmem_model.network.Network.forward`.
    """

    latents: Tensor
    noise: Tensor
    times: Tensor
    conditions: Tensor
    keep: Tensor | None = None
    features: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device) -> Self:
        """Return the batch on another device."""
        return type(self)(**{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Batches:
    """All batches of a run, of which process ``rank`` of ``processes`` sees its part."""

    examples: Examples
    recipe: TrainingRecipe
    process: PathProcess
    seed: int
    keep_mask: KeepMask | None = None
    rank: int = 0
    processes: int = 1

    def from_step(self, step: int) -> Iterator[Batch]:
        """Yield the batches of the steps from ``step`` on; while one is used the next is drawn."""
        steps = range(step, self.recipe.steps + 1)
        with ThreadPoolExecutor(max_workers=1) as pool:
            drawn = (pool.submit(self.draw, number) for number in steps)
            upcoming = next(drawn, None)
            while upcoming is not None:
                batch = upcoming.result()
                upcoming = next(drawn, None)
                yield batch

    def draw(self, step: int) -> Batch:
        """Draw this process's part of the batch of step ``step``, counted from 1."""
        recipe, random = self.recipe, generator(self.seed, step)
        count = recipe.batch_size
        part = slice(self.rank * count // self.processes, (self.rank + 1) * count // self.processes)
        rows = torch.randint(len(self.examples), (count,), generator=random)
        times = training_times(self.process, count, random, recipe.times)
        latents = self.examples.latents[rows[part]]
        noise = torch.randn((count, *latents.shape[1:]), generator=random)
        keep = None
        if recipe.snippet_dropout and self.keep_mask is not None:
            keep = self.keep_mask(count, random)[part]
        return Batch(
            latents=latents,
            noise=noise[part],
            times=times[part],
            conditions=self._conditions(rows, part, random),
            keep=keep,
            features=tuple(features[rows[part]] for features in self.examples.features),
        )

    def _conditions(self, rows: Tensor, part: slice, random: torch.Generator) -> Tensor:
        conditions = self.examples.conditions[rows[part]]
        if not conditions.is_floating_point():
            dropped = torch.rand(len(rows), generator=random) < self.recipe.label_dropout
            return drop_labels(conditions, dropped[part])
        if self.recipe.snippet_noise:
            noise = torch.randn((len(rows), *conditions.shape[1:]), generator=random)
            return blur(conditions, self.recipe.snippet_noise * noise[part])
        return conditions


def blur(snippets: Tensor, noise: Tensor) -> Tensor:
    """Disturb unit-length snippets ``(n, d)``, so that the network cannot learn whose they are.

    Without it a network trained for long gives back the one image that belongs to the snippet.
    ``noise`` is added to a snippet of length sqrt(d).
    """
    scale = snippets.shape[1] ** 0.5
    return functional.normalize(snippets * scale + noise)


def drop_labels(labels: Tensor, dropped: Tensor) -> Tensor:
    """Replace class ids, int64 ``(n,)``, by -1, no class, where ``dropped`` says so."""
    return torch.where(dropped, -1, labels)


def generator(seed: int, step: int) -> torch.Generator:
    """Return the source of everything random in a step; step 0 draws the initial weights."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(member, device) for member in value)
    return None if value is None else value.to(device, non_blocking=True)
