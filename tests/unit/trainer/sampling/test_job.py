import pytest
from pydantic import ValidationError

from gmem_model.latents import LATENT_SPACES
from gmem_model.presets import preset
from gmem_shared.model_config import ModelConfig
from gmem_trainer.sampling.job import (
    MAX_BATCH,
    Job,
    default_batch_size,
    default_snippet_rule,
)
from tests.support.models import tiny_config


def published(architecture: str, latent_space: str) -> ModelConfig:
    return ModelConfig(
        architecture=preset(architecture),
        latent_space=LATENT_SPACES[latent_space],
        encoder="dinov2",
        default_bank="imagenet@production",
        default_sampler="euler-maruyama",
        default_steps=250,
    )


V1 = published("GMem-SiT-XL/2", "sd-vae")
V2 = published("LightningDiT-XL/1", "va-vae")


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
    assert default_batch_size(V1) == 64
    assert default_batch_size(V2) == 32


def test_small_latents_do_not_make_endless_batches() -> None:
    assert default_batch_size(tiny_config()) == MAX_BATCH


def test_gmem_v1_chooses_by_noise_as_published() -> None:
    assert default_snippet_rule(V1, classes=False) == "by-noise"


def test_everything_else_and_chosen_classes_use_the_draw() -> None:
    assert default_snippet_rule(tiny_config(), classes=False) == "drawn"
    assert default_snippet_rule(V1, classes=True) == "drawn"
    assert default_snippet_rule(V2, classes=False) == "drawn"
