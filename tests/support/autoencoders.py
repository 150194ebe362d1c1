"""Small autoencoders with random weights, in the layouts in which the real ones are published."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save, save_file

from gmem_model.autoencoder import Autoencoder
from gmem_model.autoencoder.storage import WEIGHTS_FILE
from gmem_model.latents import latent_space
from gmem_shared.model_config import AutoencoderArchitecture, ModelConfig
from gmem_shared.store import Store, Version
from tests.support.models import tiny_config, tiny_network

TINY = AutoencoderArchitecture(
    channels=32, channel_mult=(1, 2), num_res_blocks=1, attn_resolutions=(128,), z_channels=4
)
"""Two pixels per side of a latent entry; attention at the lower level, as in VA-VAE."""


def tiny_autoencoder(architecture: AutoencoderArchitecture = TINY, seed: int = 0) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(architecture).eval()


def save_vavae(path: Path, autoencoder: Autoencoder) -> None:
    """Write what VA-VAE's training writes: a loss and a foundation model lie beside it."""
    others = {
        "loss.discriminator.main.0.weight": torch.zeros(2),
        "foundation_model.model.cls_token": torch.zeros(1, 1, 4),
        "linear_proj.weight": torch.zeros(3),
    }
    state = {"state_dict": autoencoder.state_dict() | others, "epoch": 3, "global_step": 7}
    torch.save(state, path)


def save_ours(path: Path, autoencoder: Autoencoder) -> None:
    save_file(autoencoder.state_dict(), path)


def latent_config() -> ModelConfig:
    """A tiny network whose latents, 4 x 4 x 4, the tiny autoencoder decodes to 3 x 8 x 8."""
    config = tiny_config()
    architecture = config.architecture.model_copy(
        update={"input_size": 4, "patch_size": 2, "in_channels": 4}
    )
    space = latent_space("sd-vae", autoencoder=TINY)
    changes = {"architecture": architecture, "latent_space": space}
    return config.model_copy(update=changes)


def publish_latent_model(store: Store, autoencoder: Autoencoder | None, name: str) -> Version:
    """Publish a tiny network that samples latents, with what decodes them or without."""
    config = latent_config()
    files = {
        "network.safetensors": save(tiny_network(config).state_dict()),
        "config.json": config.model_dump_json().encode(),
    }
    if autoencoder is not None:
        files[WEIGHTS_FILE] = save(autoencoder.state_dict())
    repository = store.repository("models", name)
    version = repository.publish(files, metadata={"encoder": str(config.encoder)})
    repository.set_alias("production", version, reason="test")
    return version
