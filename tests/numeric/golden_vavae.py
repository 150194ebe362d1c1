"""The autoencoder of latent diffusion, as VA-VAE publishes it."""

import torch
from torch import Tensor

from gmem_model.autoencoder import Autoencoder
from gmem_model.images import quantize
from gmem_model.weights import assign
from gmem_shared.model_config import AutoencoderArchitecture
from tests.numeric.golden_cases import GoldenCase, handles


def autoencoder(case: GoldenCase) -> Autoencoder:
    config = case.config
    architecture = AutoencoderArchitecture(
        channels=config["ch"],
        channel_mult=config["ch_mult"],
        **{
            name: config[name]
            for name in ("num_res_blocks", "attn_resolutions", "resolution", "z_channels")
        },
    )
    fresh = Autoencoder(architecture)  # whose encoder stays where the file holds a decoder only
    return assign(fresh, fresh.state_dict() | case.weights, case.id)


@handles("vavae", "vae_decode")
@torch.no_grad()
def decode(case: GoldenCase) -> dict[str, Tensor]:
    image = autoencoder(case).decode(case.inputs["z"])
    outputs = {"image": image, "uint8": quantize(image, "sit").permute(0, 2, 3, 1)}
    return {role: outputs[role] for role in case.case["outputs"]}


@handles("vavae", "vae_encode")
@torch.no_grad()
def encode(case: GoldenCase) -> dict[str, Tensor]:
    posterior = autoencoder(case).encode(case.inputs["image"])
    return {
        "moments": torch.cat([posterior.mean, posterior.log_variance], dim=1),
        "mean": posterior.mean,
        "std": posterior.std,
        "sample": posterior.sample(case.inputs["noise"]),
    }
