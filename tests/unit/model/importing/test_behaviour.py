from typing import Any

import pytest

from gmem_model.importing.behaviour import behaviour_of
from gmem_model.importing.layouts import Checkpoint
from gmem_model.published import FAMILIES, PUBLISHED
from gmem_model.samplers import plan, samplers_of
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Interpolant, Transport


def behaviour(family: Any, **options: Any) -> Any:
    return behaviour_of(Checkpoint(family, "training", {}, options=options))


@pytest.mark.parametrize("family", FAMILIES)
def test_file_without_options_is_sampled_as_published(family) -> None:
    assert behaviour(family) == PUBLISHED[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_published_samplers_exist(family) -> None:
    published = PUBLISHED[family]
    assert published.sampler in samplers_of(published.process)
    assert plan(published.sampler, published.steps, published.process).is_finite()


def test_path_of_the_training_run_counts() -> None:
    assert behaviour("repa", path_type="cosine").process == Interpolant(path="cosine")
    sit = behaviour("sit", path_type="GVP", prediction="noise", train_eps=0.1, sample_eps=None)
    assert sit.process == Transport(path="gvp", prediction="noise", train_eps=0.1)


def test_configuration_of_gmem_v2_counts() -> None:
    found = behaviour(
        "gmem-v2",
        transport={"path_type": "Linear", "prediction": "velocity", "train_eps": None},
        sample={
            "mode": "ODE",
            "sampling_method": "euler",
            "timestep_shift": 0.5,
            "num_sampling_steps": 20,
            "last_step": None,
            "cfg_scale": 7.75,
            "cfg_interval_start": 0.5,
        },
    )
    assert (found.sampler, found.steps) == ("euler", 20)
    assert found.process.timestep_shift == 0.5
    assert found.process.diffusion_form == "linear"
    assert found.process.last_step is None
    assert (found.guidance.scale, found.guidance.low) == (7.75, 0.5)


def test_diffusion_that_the_original_misspells_is_known() -> None:
    options = {"sample": {"diffusion_form": "inccreasing-decreasing"}}
    assert behaviour("gmem-v2", **options).process.diffusion_form == "increasing-decreasing"


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("sit", {"path_type": "spiral"}),
        ("gmem-v2", {"transport": {"prediction": "weather"}}),
        ("gmem-v2", {"sample": [1]}),
        ("gmem-v2", {"sample": {"num_sampling_steps": "many"}}),
        ("gmem-v2", {"sample": {"cfg_scale": "strong"}}),
        ("gmem-v2", {"sample": {"last_step_size": float("nan")}}),
        ("gmem-v2", {"transport": None}),
    ],
)
def test_options_that_are_not_known_are_refused(family, options) -> None:
    with pytest.raises(InvalidRequestError, match="options of a"):
        behaviour(family, **options)
