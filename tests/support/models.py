"""Small untrained models: the digits architecture with random weights, which make real images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from gmem_model.checkpoint import save_network
from gmem_model.network import Network
from gmem_model.networks import build
from gmem_model.presets import preset
from gmem_shared.model_config import (
    EDM,
    Architecture,
    ClassName,
    EDM2Architecture,
    Guidance,
    LabelCondition,
    LightningDiTArchitecture,
    ModelConfig,
    NoCondition,
    SiTArchitecture,
    SnippetCondition,
    Transport,
)
from gmem_shared.store import Store, Version

TEST_ENCODER = "test-encoder"
TINY_TRANSFORMER: dict[str, Any] = {
    "input_size": 8, "patch_size": 4, "in_channels": 1,
    "hidden_size": 32, "depth": 2, "num_heads": 2,
}  # fmt: skip


def tiny_config(
    encoder: str = TEST_ENCODER,
    default_bank: str = "tiny@production",
    default_sampler: str = "ab2",
    default_steps: int = 4,
) -> ModelConfig:
    return ModelConfig(
        architecture=preset("digits"),
        encoder=encoder,
        default_bank=default_bank,
        default_sampler=default_sampler,
        default_steps=default_steps,
    )


def label_config() -> ModelConfig:
    """A SiT that takes a label and can be guided; its third class has no name."""
    return ModelConfig(
        architecture=SiTArchitecture(
            **TINY_TRANSFORMER, condition=LabelCondition(num_classes=3), learn_sigma=True
        ),
        process=Transport(),
        guidance=Guidance(scale=1.5),
        classes=(ClassName(id=0, name="cat", aliases=("n02121808",)), ClassName(id=1, name="dog")),
        default_sampler="heun",
        default_steps=4,
    )


def lightningdit_config() -> ModelConfig:
    """A LightningDiT that takes a snippet and is guided through the zero snippet (GMem v2)."""
    return ModelConfig(
        architecture=LightningDiTArchitecture(
            **TINY_TRANSFORMER, condition=SnippetCondition(dimension=64)
        ),
        process=Transport(timestep_shift=0.3),
        guidance=Guidance(scale=4.0, high=0.9, past_high="reference"),
        encoder=TEST_ENCODER,
        default_bank="tiny@production",
        default_sampler="euler",
        default_steps=4,
    )


def edm2_config() -> ModelConfig:
    """An unconditional EDM2, guided by a second, smaller network."""
    size: dict[str, Any] = {
        "input_size": 8, "in_channels": 1, "condition": NoCondition(), "channel_mult": (1, 2),
        "num_blocks": 1, "attn_resolutions": (4,), "channels_per_head": 16,
    }  # fmt: skip
    return ModelConfig(
        architecture=EDM2Architecture(**size, model_channels=32),
        process=EDM(),
        guidance=Guidance(scale=1.4, guide=EDM2Architecture(**size, model_channels=16)),
        default_sampler="heun",
        default_steps=4,
    )


FAMILIES = {
    "tiny": tiny_config, "lightningdit": lightningdit_config, "sit": label_config,
    "edm2": edm2_config,
}  # fmt: skip
"""One model of every kind of network and condition."""


def tiny_network(config: ModelConfig, seed: int = 0) -> Network:
    """A network that depends on latent, time and condition (training begins at zero)."""
    return random_network(config.architecture, seed)


def random_network(architecture: Architecture, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    network = build(architecture, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return network.eval()


def publish_tiny_model(
    store: Store,
    name: str = "tiny",
    seed: int = 0,
    encoder: str = TEST_ENCODER,
    alias: str | None = "production",
    config: ModelConfig | None = None,
    network: Network | None = None,
) -> Version:
    """Publish an untrained model and point the alias to it."""
    config = config or tiny_config(encoder, default_bank=f"{name}@production")
    repository = store.repository("models", name)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "network.safetensors"
        save_network(weights, network or tiny_network(config, seed))
        files: dict[str, Path | bytes] = {
            "network.safetensors": weights,
            "config.json": config.model_dump_json().encode(),
        }
        if config.guidance is not None and config.guidance.guide is not None:
            guide = Path(folder) / "guide.safetensors"
            save_network(guide, random_network(config.guidance.guide, seed + 1))
            files[guide.name] = guide
        metadata = {} if config.encoder is None else {"encoder": config.encoder}
        version = repository.publish(files, metadata=metadata)
    if alias is not None:
        repository.set_alias(alias, version, reason="test")
    return version


def publish_families(store: Store) -> None:
    """Publish a model of every family under its own name."""
    for name, config in FAMILIES.items():
        publish_tiny_model(store, name, config=config())
