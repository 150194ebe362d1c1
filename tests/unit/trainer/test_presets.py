import dataclasses
import json

import pytest

from gmem_model.networks import build
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import EDM
from gmem_trainer.presets import fitted, preset

NAMES = ("digits", "folder-small", "gmem-v1-xl", "gmem-v2-xl", "sit-xl", "repa-xl")


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match="digits, folder-small"):
        preset("imagenet")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_describes_itself_in_json_values(name) -> None:
    described = preset(name).describe()
    assert described["preset"] == name
    assert json.loads(json.dumps(described)) == described


def test_recipe_data_and_seed_name_the_run() -> None:
    digits = preset("digits")
    longer = dataclasses.replace(
        digits, training=dataclasses.replace(digits.training, steps=digits.training.steps + 1)
    )
    assert preset("digits").run_id(0) == digits.run_id(0)
    ids = {digits.run_id(0), digits.run_id(1), digits.run_id(0, "data"), longer.run_id(0)}
    assert len(ids) == 4


def test_the_published_recipes_are_those_of_the_papers() -> None:
    v2 = preset("gmem-v2-xl").training
    assert (v2.batch_size, v2.learning_rate, v2.betas, v2.steps) == (
        1024,
        2e-4,
        (0.9, 0.95),
        200000,
    )
    assert (v2.cosine_weight, v2.projection_weight, v2.times) == (1.0, 0.5, "lognormal")
    sit, repa = preset("sit-xl").training, preset("repa-xl").training
    assert (sit.batch_size, sit.learning_rate, sit.label_dropout) == (256, 1e-4, 0.1)
    assert (repa.projection_weight, repa.max_gradient_norm) == (0.5, 1.0)
    assert str(preset("gmem-v1-xl").bank) == "most-used:640000"


def test_digits_fit_their_own_data_unchanged() -> None:
    digits = preset("digits")
    assert fitted(digits, (1, 8, 8), 64, None, 10) == digits.architecture


def test_entries_of_longer_snippets_keep_their_size() -> None:
    condition = fitted(preset("folder-small"), (3, 32, 32), 256, None, 0).condition
    assert (condition.dimension, condition.scale) == (256, 16.0)
    published = fitted(preset("gmem-v1-xl"), (4, 32, 32), 768, 768, 1000).condition
    assert published.scale == 1.0


@pytest.mark.parametrize(("side", "patch"), [(8, 4), (32, 4), (64, 8), (128, 16)])
def test_patches_of_larger_images_grow(side, patch) -> None:
    architecture = fitted(preset("folder-small"), (3, side, side), 64, None, 0)
    assert architecture.patch_size == patch
    build(architecture)


def test_labels_and_token_width_are_those_of_the_data() -> None:
    repa = fitted(preset("repa-xl"), (4, 64, 64), None, 384, 7)
    assert repa.condition.num_classes == 7
    assert (repa.input_size, repa.projector_outputs) == (64, (384,))


def test_a_network_with_labels_needs_classes() -> None:
    with pytest.raises(InvalidRequestError, match="class sub-folders for sit-xl"):
        fitted(preset("sit-xl"), (4, 32, 32), None, None, 0)


def test_a_process_that_is_no_path_is_refused() -> None:
    digits = preset("digits")
    behaviour = dataclasses.replace(digits.behaviour, process=EDM())
    with pytest.raises(InvalidRequestError, match="found EDM"):
        _ = dataclasses.replace(digits, behaviour=behaviour).process
