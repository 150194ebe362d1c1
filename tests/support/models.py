"""Small untrained models: the digits architecture with random weights, which make real images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from gmem_model.checkpoint import save_network
from gmem_model.presets import preset
from gmem_model.sit import SiT
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import Store, Version

TEST_ENCODER = "test-encoder"


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


def tiny_network(config: ModelConfig, seed: int = 0) -> SiT:
    """A network whose velocity depends on latent, time and snippet (training begins at zero)."""
    generator = torch.Generator().manual_seed(seed)
    network = SiT(config.architecture, generator=generator)
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
    network: SiT | None = None,
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
        version = repository.publish(files, metadata={"encoder": encoder})
    if alias is not None:
        repository.set_alias(alias, version, reason="test")
    return version
