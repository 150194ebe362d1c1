import pytest
from pydantic import ValidationError

from gmem_model.presets import preset
from gmem_shared.model_config import AutoencoderArchitecture, AutoencoderSpace, ModelConfig
from gmem_trainer.sampling.job import (
    MAX_BATCH,
    Job,
    default_batch_size,
    default_snippet_rule,
)
from tests.support.models import tiny_config

LATENTS = AutoencoderSpace(autoencoder=AutoencoderArchitecture(), eight_bit="gmem-v1")


def v1_config(**changes) -> ModelConfig:
    values = {
        "architecture": preset("SiT-XL/2"),
        "latent_space": LATENTS,
        "encoder": "dinov2",
        "default_bank": "imagenet@production",
        "default_sampler": "euler-maruyama",
        "default_steps": 250,
    }
    return ModelConfig(**(values | changes))


def job(**changes) -> Job:
    values = {"model": "m@sha256-0", "num_images": 10, "seed": 0, "sampler": "ab2"}
    return Job(**(values | {"num_steps": 8, "batch_size": 4} | changes))


def test_batches_hold_every_image_once() -> None:
    parts = [job().indices(part).tolist() for part in range(job().num_parts)]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_job_that_fills_its_last_batch_has_no_empty_one() -> None:
    assert job(num_images=8).num_parts == 2


def test_differences_name_what_was_asked_for_and_what_is_there() -> None:
    found = list(job(seed=1, classes=(3,)).differences(job()))
    assert found == ["seed 1 instead of 0", "classes (3,) instead of ()"]


def test_noise_cannot_choose_from_a_part_of_the_bank() -> None:
    for choice in ({"classes": (1,)}, {"balanced": True}):
        with pytest.raises(ValidationError, match="by-noise"):
            job(snippets="by-noise", **choice)


def test_batches_have_the_published_size_for_published_latents() -> None:
    assert default_batch_size(v1_config()) == 64
    v2 = preset("SiT-XL/2").model_copy(update={"in_channels": 32, "input_size": 16})
    assert default_batch_size(v1_config(architecture=v2)) == 32


def test_small_latents_do_not_make_endless_batches() -> None:
    assert default_batch_size(tiny_config()) == MAX_BATCH


def test_gmem_v1_chooses_by_noise_as_published() -> None:
    assert default_snippet_rule(v1_config(), classes=False) == "by-noise"


def test_models_of_pixels_and_chosen_classes_use_the_draw() -> None:
    assert default_snippet_rule(tiny_config(), classes=False) == "drawn"
    assert default_snippet_rule(v1_config(), classes=True) == "drawn"
