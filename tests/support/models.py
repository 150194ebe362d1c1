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
    ClassName,
    Guidance,
    LabelCondition,
    ModelConfig,
    SiTArchitecture,
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
        guidance=Guidance(scale=1.5),
        classes=(ClassName(id=0, name="cat", aliases=("n02121808",)), ClassName(id=1, name="dog")),
        default_sampler="heun",
        default_steps=4,
    )


def tiny_network(config: ModelConfig, seed: int = 0) -> Network:
    """A network that depends on latent, time and condition (training begins at zero)."""
    generator = torch.Generator().manual_seed(seed)
    network = build(config.architecture, generator=generator)
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
        files = {
            "network.safetensors": weights,
            "config.json": config.model_dump_json().encode(),
        }
        metadata = {} if config.encoder is None else {"encoder": config.encoder}
        version = repository.publish(files, metadata=metadata)
    if alias is not None:
        repository.set_alias(alias, version, reason="test")
    return version
