import dataclasses

import pytest

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.presets import preset


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match="digits"):
        preset("imagenet")


def test_the_snippet_width_is_that_of_the_encoder() -> None:
    digits = preset("digits")
    assert digits.architecture.snippet_dimension == digits.encoder.dimension


def test_recipe_and_seed_name_the_run() -> None:
    digits = preset("digits")
    longer = dataclasses.replace(
        digits, training=dataclasses.replace(digits.training, steps=digits.training.steps + 1)
    )
    assert preset("digits").run_id(0) == digits.run_id(0)
    assert len({digits.run_id(0), digits.run_id(1), longer.run_id(0)}) == 3
