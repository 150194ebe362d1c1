"""What is compared: one transformer, one recipe, four ways to tell it what to draw.

The arms differ in nothing but the condition (and, for REPA, one more term of the loss). Size,
batches, times, optimizer, average and sampler are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

from gmem_model.presets import preset
from gmem_shared.model_config import LabelCondition, SiTArchitecture
from gmem_trainer.training.recipe import PowerAverage, TrainingRecipe

CLASSES = 10
TOKEN_FEATURES = 32
"""Channels of the encoder's last convolution, which REPA aligns tokens with."""

RECIPE = TrainingRecipe(
    steps=800,
    batch_size=128,
    learning_rate=3e-3,
    betas=(0.9, 0.99),
    weight_decay=0.01,
    warmup_steps=20,
    max_gradient_norm=1.0,
    average=PowerAverage(),
    times="lognormal",
)
"""A constant learning rate: with one that falls, every number of steps would need a run of its
own."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of conditioning.

    Attributes:
        name: As it stands in the tables.
        condition: What the network is told about an image.
        recipe: How it is trained.
    """

    name: str
    condition: Literal["label", "snippet"]
    recipe: TrainingRecipe

    @property
    def uses_encoder(self) -> bool:
        """Whether the arm cannot begin before an encoder is trained."""
        return self.condition == "snippet" or self.recipe.projection_weight > 0

    @property
    def architecture(self) -> SiTArchitecture:
        """The digits transformer under this condition."""
        digits = cast("SiTArchitecture", preset("digits"))
        if self.condition == "snippet":
            return digits
        changes: dict[str, object] = {"condition": LabelCondition(num_classes=CLASSES)}
        if self.recipe.projection_weight:
            changes |= {
                "projector_outputs": (TOKEN_FEATURES,),
                "projector_dimension": digits.hidden_size,
                "encoder_depth": digits.depth // 2,
            }
        return digits.model_copy(update=changes)

    def at(self, learning_rate: float) -> Arm:
        """Return the arm with another learning rate."""
        return replace(self, recipe=replace(self.recipe, learning_rate=learning_rate))

    def until(self, steps: int) -> Arm:
        """Return the arm with another number of steps."""
        return replace(self, recipe=replace(self.recipe, steps=steps))


ARMS = (
    Arm("SiT", "label", RECIPE),
    Arm("SiT + REPA", "label", replace(RECIPE, projection_weight=0.5)),
    Arm("GMem, plain snippets", "snippet", RECIPE),
    Arm("GMem", "snippet", replace(RECIPE, snippet_noise=0.75)),
)
"""The last one is what the others are compared with: as the digits preset trains it."""
