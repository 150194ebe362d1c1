"""The files of a model version, made from a published checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from gmem_model.autoencoder import import_autoencoder
from gmem_model.autoencoder.storage import WEIGHTS_FILE as AUTOENCODER
from gmem_model.checkpoint import PROJECTORS
from gmem_model.importing.architectures import Unshown, infer_architecture
from gmem_model.importing.behaviour import behaviour_of
from gmem_model.importing.latent_statistics import read_latent_statistics
from gmem_model.importing.layouts import Checkpoint
from gmem_model.latents import LATENT_SPACES, latent_space
from gmem_model.networks import build
from gmem_model.samplers import plan
from gmem_model.weights import differences, without_weights
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import (
    Architecture,
    ClassName,
    EDM2Architecture,
    Guidance,
    LatentSpace,
    ModelConfig,
    NoCondition,
    PixelSpace,
)
from gmem_shared.tensor_file import Streamed, write_tensors

NETWORK, GUIDE, CONFIG = "network.safetensors", "guide.safetensors", "config.json"

_PIXEL_CHANNELS = (1, 3)

Files = dict[str, Path | bytes]
Progress = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the importer decides; ``None`` leaves it to the file or to what was published.

    Attributes:
        encoder, default_bank: Of a network that takes snippets.
        autoencoder: A published autoencoder, see `import_autoencoder`.
        latent_stats: ``latents_stats.pt`` of GMem v2.
        guide: The second network of EDM2's guidance.
    """

    unshown: Unshown = field(default_factory=Unshown)
    keep_projectors: bool = False
    encoder: str | None = None
    default_bank: str | None = None
    autoencoder: Path | None = None
    latent_stats: Path | None = None
    guide: Checkpoint | None = None
    guidance_scale: float | None = None
    classes: tuple[ClassName, ...] = ()
    sampler: str | None = None
    steps: int | None = None


def write_model(
    folder: Path, checkpoint: Checkpoint, wishes: Wishes, progress: Progress = lambda size: None
) -> tuple[Files, ModelConfig]:
    """Write the files of a model version into a folder, tensor by tensor.

    Returns:
        What ``Repository.publish`` takes, and the configuration among it.

    Raises:
        InvalidRequestError: Checkpoint, wishes and further files do not make a model.
        UnknownSamplerError, OutOfRangeError: The process has no such sampler or steps.
    """
    files: Files = {NETWORK: folder / NETWORK}
    architecture = infer_architecture(checkpoint, wishes.unshown, projectors=wishes.keep_projectors)
    write_network(folder / NETWORK, checkpoint, architecture, progress)
    guide = None
    if wishes.guide is not None:
        files[GUIDE] = folder / GUIDE
        guide = _guide(wishes.guide, architecture)
        write_network(folder / GUIDE, wishes.guide, guide, progress)
    space = _latent_space(folder, checkpoint, architecture, wishes, files)
    config = _config(checkpoint, architecture, guide, space, wishes)
    plan(config.default_sampler, config.default_steps, config.process)  # there must be one
    files[CONFIG] = config.model_dump_json(indent=2).encode()
    return files, config


def _guide(checkpoint: Checkpoint, guided: Architecture) -> EDM2Architecture:
    """Return the architecture of the second network, which must work beside the guided one."""
    guide = checkpoint.architecture
    if not (isinstance(guide, EDM2Architecture) and isinstance(guided, EDM2Architecture)):
        raise InvalidRequestError(
            f"expected --guide with two network snapshots of EDM2, found it for a network of "
            f"family {guided.family} and from one of {checkpoint.family}"
        )
    same_latent = guide.input_size == guided.input_size and guide.in_channels == guided.in_channels
    if not same_latent or guide.condition not in (guided.condition, NoCondition()):
        raise InvalidRequestError(
            f"expected a guide for the latents of the guided network and for its classes or none; "
            f"found {guide!r} beside {guided!r}"
        )
    return guide


def write_network(
    path: Path,
    checkpoint: Checkpoint,
    architecture: Architecture,
    progress: Progress = lambda size: None,
) -> None:
    """Write the weights that an architecture has, one tensor in memory at a time.

    Raises:
        InvalidRequestError: They are not those of the architecture.
    """
    kept = _served(checkpoint.weights, architecture)
    with without_weights():
        network = build(architecture)
    derived = network.derived_weights().keys() - kept.keys()
    expected = {k: v for k, v in network.state_dict().items() if k not in derived}
    different = differences(expected, kept)
    if different:
        raise InvalidRequestError(
            f"expected the weights of a {checkpoint.family} network with {architecture!r}; "
            f"{different}"
        )
    write_tensors(path, {name: _streamed(name, tensor, progress) for name, tensor in kept.items()})


def _served(weights: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Leave out projectors that the architecture lacks; only training needs them."""
    if isinstance(architecture, EDM2Architecture) or architecture.projector_outputs:
        return dict(weights)
    return {name: w for name, w in weights.items() if not name.startswith(PROJECTORS)}


def _streamed(name: str, tensor: Tensor, progress: Progress) -> Streamed:
    half = tensor.dtype == torch.float16
    dtype = torch.float16 if half else torch.float32

    def chunks() -> Iterator[NDArray[Any]]:
        values = tensor.detach().to(dtype).contiguous()
        if not values.isfinite().all():
            raise InvalidRequestError(f"expected finite weights, found NaN or infinity in {name}")
        yield values.numpy()
        progress(tensor.numel() * dtype.itemsize)

    return Streamed(np.dtype(np.float16 if half else np.float32), tuple(tensor.shape), chunks())


def _latent_space(
    folder: Path,
    checkpoint: Checkpoint,
    architecture: Architecture,
    wishes: Wishes,
    files: Files,
) -> LatentSpace:
    """Return the space of the network's latents; adds the autoencoder to the files."""
    name = checkpoint.latent_space or behaviour_of(checkpoint).latent_space
    space, channels = LATENT_SPACES[name], architecture.in_channels
    if isinstance(space, PixelSpace):
        return space
    if wishes.autoencoder is None and channels in _PIXEL_CHANNELS:
        return LATENT_SPACES["pixels"]
    scaling = None if wishes.latent_stats is None else read_latent_statistics(wishes.latent_stats)
    if wishes.autoencoder is None:
        sizes = space.autoencoder.model_copy(update={"z_channels": channels})
        return latent_space(name, autoencoder=sizes, scaling=scaling)
    if name == "va-vae" and scaling is None:
        raise InvalidRequestError(
            "expected the statistics of the latents that the network was trained on; give "
            "latents_stats.pt with --latent-stats"
        )
    sizes, weights = import_autoencoder(wishes.autoencoder)
    files[AUTOENCODER] = folder / AUTOENCODER
    write_tensors(
        folder / AUTOENCODER, {n: _streamed(n, w, lambda size: None) for n, w in weights.items()}
    )
    return latent_space(name, autoencoder=sizes, scaling=scaling)


def _config(
    checkpoint: Checkpoint,
    architecture: Architecture,
    guide: Architecture | None,
    space: LatentSpace,
    wishes: Wishes,
) -> ModelConfig:
    behaviour = behaviour_of(checkpoint)
    takes_snippets = architecture.condition.kind == "snippet"
    try:
        return ModelConfig(
            architecture=architecture,
            latent_space=space,
            process=behaviour.process,
            guidance=_guidance(behaviour.guidance, guide, wishes),
            encoder=wishes.encoder if takes_snippets else None,
            default_bank=wishes.default_bank if takes_snippets else None,
            classes=wishes.classes,
            default_sampler=wishes.sampler or behaviour.sampler,
            default_steps=wishes.steps or behaviour.steps,
        )
    except ValidationError as error:
        raise InvalidRequestError(f"file and options do not make a model: {error}") from error


def _guidance(
    published: Guidance | None, guide: Architecture | None, wishes: Wishes
) -> Guidance | None:
    if isinstance(guide, EDM2Architecture):
        published = Guidance(guide=guide)
    if wishes.guidance_scale is None:
        return published
    if published is None:
        raise InvalidRequestError("expected no --guidance-scale: this network cannot be guided")
    return Guidance.model_validate(published.model_dump() | {"scale": wishes.guidance_scale})
