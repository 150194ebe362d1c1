"""What is refused before it may wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gmem_model.engine.request import check_task, resolve_guidance, resolve_sampler
from gmem_shared.errors import (
    DeadlineExceededError,
    EncoderMismatchError,
    GmemError,
    InvalidRequestError,
    OutOfRangeError,
)
from gmem_shared.types import VersionRef
from tests.support.engine import make_task
from tests.support.models import label_config, tiny_config

CONFIG = tiny_config(default_sampler="heun", default_steps=7)
VERSION = VersionRef("tiny", 3, "sha256-00")


def spoiled(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    snippets = np.ones((3, 64), np.float32)
    snippets[1, 5] = value
    return snippets


def test_a_sound_task_passes() -> None:
    check_task(make_task(n=3, deadline_seconds=1.0), CONFIG, VERSION)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n": 0}, OutOfRangeError, "at least 1 image"),
        ({"encoder": "dino"}, EncoderMismatchError, "test-encoder.*dino.*tiny@production"),
        ({"snippets": np.ones((3, 65), np.float32)}, InvalidRequestError, r"\(3, 64\).*\(3, 65\)"),
        ({"snippets": np.ones((2, 64), np.float32)}, InvalidRequestError, r"\(3, 64\).*\(2, 64\)"),
        ({"snippets": np.ones(64, np.float32)}, InvalidRequestError, r"\(3, 64\).*\(64,\)"),
        ({"indices": np.arange(2)}, InvalidRequestError, r"3 indices.*\(2,\)"),
        ({"indices": np.array([0, -1, 2])}, OutOfRangeError, "found -1"),
        ({"snippets": spoiled(np.nan)}, OutOfRangeError, "row 1"),
        ({"snippets": spoiled(np.inf)}, OutOfRangeError, "row 1"),
        ({"deadline_seconds": 0.0}, DeadlineExceededError, "had passed"),
        ({"deadline_seconds": float("nan")}, DeadlineExceededError, "had passed"),
    ],
)
def test_an_unsound_task_is_refused_saying_why(
    changes: dict[str, Any], error: type[GmemError], message: str
) -> None:
    task = make_task(**({"n": 3} | changes))
    with pytest.raises(error, match=message):
        check_task(task, CONFIG, VERSION)


def test_sampler_and_steps_default_to_the_models() -> None:
    assert resolve_sampler(make_task(), CONFIG, 100) == ("heun", 7)
    assert resolve_sampler(make_task(sampler="ab2", num_steps=3), CONFIG, 100) == ("ab2", 3)


@pytest.mark.parametrize("num_steps", [-1, 0, 101])
def test_steps_out_of_range_are_refused_naming_the_range(num_steps: int) -> None:
    with pytest.raises(OutOfRangeError, match=f"1 to 100, found {num_steps}") as refusal:
        resolve_sampler(make_task(num_steps=num_steps), CONFIG, 100)
    assert refusal.value.errors[0]["field"] == "num_steps"


@pytest.mark.parametrize(("asked", "scale"), [(None, 1.5), (1.0, 1.0), (0.0, 0.0), (7.75, 7.75)])
def test_a_scale_replaces_the_models_own(asked: float | None, scale: float) -> None:
    guided = label_config()
    guidance = resolve_guidance(make_task(guidance_scale=asked), guided)
    assert guided.guidance is not None
    assert guidance == guided.guidance.model_copy(update={"scale": scale})


@pytest.mark.parametrize("asked", [None, 1.0])
def test_a_model_without_guidance_needs_none(asked: float | None) -> None:
    assert resolve_guidance(make_task(guidance_scale=asked), CONFIG) is None


def test_a_scale_for_a_model_that_cannot_be_guided_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"found 1\.5") as refusal:
        resolve_guidance(make_task(guidance_scale=1.5), CONFIG)
    assert refusal.value.errors[0]["field"] == "guidance_scale"


@pytest.mark.parametrize("asked", [-0.1, float("nan"), float("inf")])
def test_a_scale_that_is_no_scale_is_refused(asked: float) -> None:
    with pytest.raises(OutOfRangeError, match="at least 0") as refusal:
        resolve_guidance(make_task(guidance_scale=asked), label_config())
    assert refusal.value.errors[0]["field"] == "guidance_scale"
