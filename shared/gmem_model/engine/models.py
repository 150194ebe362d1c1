"""From a published model version to a network that is known to work on this machine."""

from __future__ import annotations

import structlog
import torch
from pydantic import ValidationError

from gmem_model.checkpoint import load_guide, load_network
from gmem_model.decoding import image_shape
from gmem_model.engine.rows import Rows, RowSpec
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import plan, samplers_of
from gmem_shared.errors import CorruptVersionError, NotReadyError
from gmem_shared.model_config import Guidance, LabelCondition, ModelConfig
from gmem_shared.store import OpenVersion
from gmem_shared.types import ClassInfo, ModelInfo, VersionRef

log = structlog.get_logger(__name__)

_COMPANY = 3


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
    """Build the network, and its guide if it has one; evaluate it, so that a task finds it warm.

    Raises:
        CorruptVersionError: The weights are not those of the configuration.
        NotReadyError: The networks do not give finite predictions.
    """
    guide = None
    if config.guidance is not None and config.guidance.guide is not None:
        guide = load_guide(opened.path("guide.safetensors"), config)
    network = GuidedNetwork.of(
        load_network(opened.path("network.safetensors"), config), config.guidance, guide
    )
    with torch.inference_mode():
        _try_out(network, config, opened.version.ref)
    return network


def _try_out(network: GuidedNetwork, config: ModelConfig, version: VersionRef) -> None:
    """Evaluate a row alone and in company: it must be finite, and should be the same.

    Guidance is on, so that its reference is evaluated, too.
    """
    guidance = config.guidance and Guidance(scale=2.0)
    default = plan(config.default_sampler, config.default_steps, config.process, guidance)
    row = RowSpec(default, network.network.no_condition(1)[0], seed=0, index=0)
    rows = Rows(network, config.process, 1 + _COMPANY, modulation_bytes=1)
    alone, *company = rows.join([row] * (1 + _COMPANY))
    finite = [*rows.step([alone]), *rows.step(company)]
    if not all(finite):
        raise NotReadyError(
            f"model {version} gives predictions that are not finite; publish a sound version or "
            "point the alias back"
        )
    results = rows.latents([alone, *company])
    if not (results == results[0]).all():
        log.warning("engine.batch.not_invariant", model=str(version))


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
