"""What decides every image of a sampling job."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gmem_model.samplers import Plan, plan
from gmem_model.samplers.adaptive import DOPRI5
from gmem_shared.model_config import ModelConfig, SnippetCondition, Strict, Transport
from gmem_trainer.generation import Adaptive

SnippetRule = Literal["by-noise", "drawn"]
"""How an image finds its snippet: its own initial noise points at it, as GMem v1 publishes it, or
a weighted draw over the bank does."""

MAX_BATCH = 250
"""Beyond, a CPU core gains nothing, and a killed job loses more."""

_BATCH_ELEMENTS = 2**18


class Job(Strict):
    """Everything the images of a job depend on; two equal jobs make the same bytes.

    Batches are part of it: a kernel may round differently in another batch, so which images share
    one must not depend on how the work was divided or how often it was interrupted.
    """

    schema_version: Literal[1] = 1
    model: str
    """Pinned: ``name@sha256-…``."""
    bank: str | None = None
    """Pinned; the bank of a snippet model."""
    num_images: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**64)
    sampler: str
    num_steps: int = Field(gt=0)
    guidance_scale: float = 1.0
    snippets: SnippetRule | None = None
    """For a snippet model."""
    classes: tuple[int, ...] = ()
    """Draw from these only; empty for all."""
    balanced: bool = False
    """Image i is of class i mod C, instead of a class that is drawn."""
    batch_size: int = Field(gt=0)

    @model_validator(mode="after")
    def _noise_knows_no_classes(self) -> Self:
        if self.snippets == "by-noise" and (self.classes or self.balanced):
            raise ValueError(
                "expected snippets to be drawn where classes are chosen or balanced, found "
                "by-noise, which chooses from the whole bank"
            )
        return self

    @property
    def num_parts(self) -> int:
        """Number of batches."""
        return -(-self.num_images // self.batch_size)

    def indices(self, part: int) -> NDArray[np.int64]:
        """Return the numbers of the images of a batch, int64 ``(n,)``."""
        first = part * self.batch_size
        return np.arange(first, min(first + self.batch_size, self.num_images))

    def differences(self, other: Job) -> Iterator[str]:
        """Name each member that differs, with both values."""
        for name, value in self:
            theirs = getattr(other, name)
            if theirs != value:
                yield f"{name} {value} instead of {theirs}"


def solver_of(job: Job, config: ModelConfig) -> Plan | Adaptive:
    """Return the sampler of a job: one of those that services use, or SiT's own dopri5.

    Raises:
        UnknownSamplerError, OutOfRangeError: See `gmem_model.samplers.plan`.
    """
    guidance = config.guidance
    if guidance is not None:
        guidance = guidance.model_copy(update={"scale": job.guidance_scale})
    if job.sampler == DOPRI5 and isinstance(config.process, Transport):
        return Adaptive(config.process, guidance)
    return plan(job.sampler, job.num_steps, config.process, guidance)


def default_batch_size(config: ModelConfig) -> int:
    """Choose how many images share a batch: 64 for 4x32x32 latents and 32 for 32x16x16.

    Those are the published choices of GMem v1 and v2; other latents get as many values in all.
    """
    a = config.architecture
    elements = math.prod((a.in_channels, a.input_size, a.input_size))
    return max(1, min(MAX_BATCH, _BATCH_ELEMENTS // elements))


def default_snippet_rule(config: ModelConfig, *, classes: bool) -> SnippetRule | None:
    """Choose as the published programs do: GMem v1 by noise, everything else by a draw."""
    a = config.architecture
    if not isinstance(a.condition, SnippetCondition):
        return None
    is_v1 = a.family == "sit" and config.latent_space.kind == "autoencoder"
    return "by-noise" if is_v1 and not classes else "drawn"
