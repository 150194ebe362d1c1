"""What the families share: embeddings, conversions, scalings and preprocessing."""

import torch
from PIL import Image
from torch import Tensor

from gmem_model.embeddings import (
    position_table,
    resample_position_table,
    rotary_table,
    rotate,
    time_sinusoids,
)
from gmem_model.images import EightBit, quantize
from gmem_model.latents import LATENT_SPACES, LatentScaling
from gmem_model.preprocessing import center_crop, dinov2_input, external_image
from tests.numeric.golden_cases import GoldenCase, handles

COMMON = "common"
FORMULAS: dict[str, EightBit] = {
    "v1_and_repa": "gmem-v1",
    "v2_and_sit": "sit",
    "edm2_rgb": "sit",
    "edm2_sdvae_from_0_1": "edm2-latent",
}


@handles(COMMON, "time_embedding")
def time_embedding(case: GoldenCase) -> dict[str, Tensor]:
    return {"emb": time_sinusoids(case.inputs["t"])}


@handles(COMMON, "pos_embed")
def pos_embed(case: GoldenCase) -> dict[str, Tensor]:
    return {"emb": torch.from_numpy(position_table(case.params["dim"], case.params["grid"]))}


@handles(COMMON, "rope")
def rope(case: GoldenCase) -> dict[str, Tensor]:
    cos, sin = rotary_table(case.params["head_dim"], case.params["grid"])
    return {"cos": cos, "sin": sin, "rotated": rotate(case.inputs["q"], cos, sin)}


@handles(COMMON, "uint8")
def uint8(case: GoldenCase) -> dict[str, Tensor]:
    return {role: quantize(case.inputs["x"], formula) for role, formula in FORMULAS.items()}


@handles(COMMON, "vae_scale")
def vae_scale(case: GoldenCase) -> dict[str, Tensor]:
    spaces = {"v1_to_vae": "sd-vae", "edm2_to_vae": "edm2-sd-vae"}
    return {
        role: LatentScaling.of(LATENT_SPACES[name]).to_autoencoder(case.inputs["latents"])
        for role, name in spaces.items()
    }


@handles(COMMON, "latent_stats")
def latent_stats(case: GoldenCase) -> dict[str, Tensor]:
    latents, multiplier = case.inputs["latents"], case.params["multiplier"]
    scaling = LatentScaling.measure(latents, multiplier)
    normalised = scaling.to_network(latents)
    return {
        "mean": scaling.mean,
        "std": scaling.std * multiplier,
        "normalised": normalised,
        "denormalised": scaling.to_autoencoder(normalised),
    }


@handles(COMMON, "dino_preprocess")
def dino_preprocess(case: GoldenCase) -> dict[str, Tensor]:
    stride = case.params["stride"]
    out = dinov2_input(case.inputs["image_u8"] / 127.5 - 1)
    return {"out": out[:, :, ::stride, ::stride]}


@handles(COMMON, "dino_posembed_resample")
def dino_posembed_resample(case: GoldenCase) -> dict[str, Tensor]:
    return {"out": resample_position_table(case.inputs["pos_embed"], case.params["new_size"][0])}


@handles(COMMON, "center_crop")
def crop(case: GoldenCase) -> dict[str, Tensor]:
    image = Image.fromarray(case.inputs["image_u8"].numpy())
    return {"out": torch.from_numpy(center_crop(image, case.params["size"]).copy())}


@handles(COMMON, "external_load")
def external_load(case: GoldenCase) -> dict[str, Tensor]:
    stride = case.params["stride"]
    image = Image.fromarray(case.inputs["image_u8"].numpy())
    return {"out": external_image(image, value_range="unit")[:, ::stride, ::stride]}
