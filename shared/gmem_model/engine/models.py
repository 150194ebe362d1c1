"""From a published model version to a network that is known to work on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from pydantic import ValidationError
from torch import Tensor

from gmem_model.checkpoint import load_guide, load_network
from gmem_model.decoding import image_shape
from gmem_model.engine.pace import Pace
from gmem_model.engine.rows import Rows
from gmem_model.engine.runtimes import examples
from gmem_model.engine.windows import RowSpec
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_model.samplers import plan, samplers_of
from gmem_shared.errors import CorruptVersionError, NotReadyError
from gmem_shared.model_config import Guidance, LabelCondition, ModelConfig
from gmem_shared.settings import EngineSettings
from gmem_shared.store import OpenVersion
from gmem_shared.types import ClassInfo, ModelInfo, VersionRef

MEASURING_SECONDS = 0.5
"""A network that has been timed for so long is not timed with still more rows."""

_COMPANY = 3
_REPETITIONS = 5


def read_config(opened: OpenVersion) -> ModelConfig:
    """Read ``config.json``.

    Raises:
        CorruptVersionError: It does not describe a model that this release knows.
    """
    try:
        return ModelConfig.model_validate_json(opened.path("config.json").read_bytes())
    except ValidationError as error:
        raise CorruptVersionError(
            f"expected config.json of model {opened.version.ref} to describe a model this release "
            f"knows: {error}"
        ) from error


def open_network(opened: OpenVersion, config: ModelConfig) -> GuidedNetwork:
    """Build the network, and its guide if it has one.

    Raises:
        CorruptVersionError: The weights are not those of the configuration.
    """
    guide = None
    if config.guidance is not None and config.guidance.guide is not None:
        guide = load_guide(opened.path("guide.safetensors"), config)
    return GuidedNetwork.of(
        load_network(opened.path("network.safetensors"), config), config.guidance, guide
    )


def try_out(network: GuidedNetwork, config: ModelConfig, version: VersionRef) -> bool:
    """Evaluate a row alone and in company: it must be finite; return whether it is the same.

    Guidance is on, so that its reference is evaluated, too.

    Raises:
        NotReadyError: The networks do not give finite predictions.
    """
    guidance = config.guidance and Guidance(scale=2.0)
    default = plan(config.default_sampler, config.default_steps, config.process, guidance)
    row = RowSpec(default, network.network.no_condition(1)[0].numpy(), seed=0, index=0)
    with torch.inference_mode():
        alone, *company = (_first_step(network, config, [row] * n) for n in (1, 1 + _COMPANY))
    latents = torch.cat([alone, *company])
    if not latents.isfinite().all():
        raise NotReadyError(
            f"model {version} gives predictions that are not finite; publish a sound version or "
            "point the alias back"
        )
    return bool((latents == latents[0]).all())


def _first_step(network: GuidedNetwork, config: ModelConfig, specs: Sequence[RowSpec]) -> Tensor:
    rows = Rows(network, config.process, len(specs), modulation_bytes=1)
    slots = rows.join(specs)
    rows.step()
    return rows.latents(slots)


def measure(network: GuidedNetwork, settings: EngineSettings) -> Pace:
    """Time the network at more and more rows, for about a second at most.

    One CPU thread is timed by the processor time it takes, which other work on the machine hardly
    stretches: the shape of the line decides how many rows are worth batching.
    """
    on_cpu = network.network.device.type == "cpu"
    clock = time.thread_time if on_cpu and settings.threads == 1 else time.perf_counter
    latents, modulation = examples(network.network, settings.max_rows)
    pace, spent, rows = Pace(), 0.0, 1
    with torch.inference_mode():
        while rows <= settings.max_rows and spent < MEASURING_SECONDS:
            seconds = [
                _seconds(network.network, latents[:rows], modulation[:rows], clock)
                for _ in range(_REPETITIONS)
            ]
            pace.observe(rows, min(seconds))
            spent += sum(seconds)
            rows *= 2
    return pace


def _seconds(
    network: Network, latents: Tensor, modulation: Tensor, clock: Callable[[], float]
) -> float:
    started = clock()
    network.core(latents, modulation)
    if latents.device.type == "cuda":
        torch.cuda.synchronize(latents.device)
    return clock() - started


def describe_model(
    version: VersionRef, config: ModelConfig, *, max_steps: int, aliases: tuple[str, ...]
) -> ModelInfo:
    """Say about a model what a front end needs."""
    a = config.architecture
    return ModelInfo(
        version=version,
        condition=a.condition.kind,
        image_shape=image_shape(config),
        samplers=samplers_of(config.process),
        default_sampler=config.default_sampler,
        default_steps=config.default_steps,
        max_steps=max_steps,
        encoder=config.encoder,
        snippet_dimension=getattr(a.condition, "dimension", None),
        default_bank=config.default_bank,
        training_bank=config.training_bank,
        classes=_classes(config),
        default_guidance_scale=None if config.guidance is None else config.guidance.scale,
        aliases=aliases,
    )


def _classes(config: ModelConfig) -> tuple[ClassInfo, ...]:
    """Name every class of a label model, those without a name by their id."""
    condition = config.architecture.condition
    if not isinstance(condition, LabelCondition):
        return ()
    named = {c.id: ClassInfo(c.id, c.name, c.aliases) for c in config.classes}
    return tuple(named.get(i, ClassInfo(i, str(i))) for i in range(condition.num_classes))
