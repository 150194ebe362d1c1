"""How an imported network is sampled: as published, unless the checkpoint says otherwise.

A training program saves its options beside the weights: ``args`` (SiT, REPA) or ``config`` (GMem
v2). The path and the prediction are properties of the weights, so what is found there counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gmem_model.importing.layouts import Checkpoint
from gmem_model.published import PUBLISHED, Behaviour
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Guidance, Process

_SAMPLERS = {
    ("ODE", "euler"): "euler",
    ("ODE", "heun2"): "heun",
    ("ODE", "heun3"): "heun3",
    ("ODE", "midpoint"): "midpoint",
    ("ODE", "rk4"): "rk4",
    ("SDE", "euler"): "euler-maruyama",
    ("SDE", "heun"): "stochastic-heun",
}
"""By mode and method of GMem v2's configuration; others keep the published default."""

_MISSPELT = {"inccreasing-decreasing": "increasing-decreasing"}
"""The one way in which the original knows this diffusion."""

_OF_TRAINING = {
    "path_type": "path",
    "prediction": "prediction",
    "train_eps": "train_eps",
    "sample_eps": "sample_eps",
}
_OF_SAMPLING = ("timestep_shift", "diffusion_form", "diffusion_norm", "last_step", "last_step_size")


def behaviour_of(checkpoint: Checkpoint) -> Behaviour:
    """Return how to sample a checkpoint.

    Raises:
        InvalidRequestError: It was trained with a path or a prediction that is not known here.
    """
    published, options = PUBLISHED[checkpoint.family], checkpoint.options
    try:
        if checkpoint.family == "gmem-v2":
            return _of_config(published, options)
        return replace(published, process=_process(published.process, options))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequestError(
            f"expected the options of a {checkpoint.family} training run, found some not known "
            f"here: {error}"
        ) from error


def _of_config(published: Behaviour, config: Mapping[str, Any]) -> Behaviour:
    sample = config.get("sample", {})
    shown = {name: sample[name] for name in _OF_SAMPLING if name in sample}
    method = str(sample.get("mode", "")).upper(), str(sample.get("sampling_method", "")).lower()
    return replace(
        published,
        process=_process(published.process, config.get("transport", {}), shown),
        guidance=_guidance(published.guidance or Guidance(), sample),
        sampler=_SAMPLERS.get(method, published.sampler),
        steps=int(sample.get("num_sampling_steps", published.steps)),
    )


def _guidance(guidance: Guidance, sample: Mapping[str, Any]) -> Guidance:
    """Return the guidance of GMem v2's configuration, where a scale below 1 means none, too."""
    scale = max(float(sample.get("cfg_scale", guidance.scale)), 1.0)
    low = sample.get("cfg_interval_start", guidance.low)
    return Guidance.model_validate(guidance.model_dump() | {"scale": scale, "low": low})


def _process(
    process: Process, training: Mapping[str, Any], sampling: Mapping[str, Any] | None = None
) -> Process:
    """Return the process with the options that are set; their values are ours in lower case."""
    named = {ours: training[theirs] for theirs, ours in _OF_TRAINING.items() if theirs in training}
    changes = {
        name: _ours(value) if isinstance(value, str) else value
        for name, value in {**named, **(sampling or {})}.items()
        if name in type(process).model_fields
    }
    return type(process).model_validate(process.model_dump() | changes)


def _ours(value: str) -> str:
    lower = value.lower()
    return _MISSPELT.get(lower, lower)
