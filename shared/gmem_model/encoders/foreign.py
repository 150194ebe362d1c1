"""Published DINOv2 weights in our names: torch hub's, timm's and Hugging Face's files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gmem_model.encoders.dinov2 import DinoV2
from gmem_model.importing.torch_file import read_torch_file, state_dict
from gmem_model.weights import WeightsFile, assign, without_weights
from gmem_shared.errors import InvalidRequestError

_UNUSED = "mask_token"
"""Stands for patches that training hid."""

_NAMES_OF_HUGGING_FACE = (
    (r"^(dinov2\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(dinov2\.)?embeddings\.position_embeddings$", "pos_embed"),
    (r"^(dinov2\.)?embeddings\.", ""),
    (r"^(dinov2\.)?encoder\.layer\.", "blocks."),
    (r"^(dinov2\.)?layernorm\.", "norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
_QUERY = re.compile(r"^(blocks\.\d+)\.attention\.attention\.query\.(weight|bias)$")


def import_dinov2(path: Path, *, head_width: int = 64) -> DinoV2:
    """Read published weights of DINOv2 S, B or L.

    Args:
        path: A torch or safetensors file.
        head_width: Entries per attention head; the same in all published sizes.

    Raises:
        InvalidRequestError: The file holds no such weights, or objects other than tensors and
            plain values.
        CorruptVersionError: A safetensors file does not open.
    """
    is_safe = path.suffix == ".safetensors"
    weights = WeightsFile(path) if is_safe else state_dict(read_torch_file(path), path)
    if any(name.endswith("embeddings.cls_token") for name in weights):
        weights = _from_hugging_face(weights)
    weights = {name: tensor for name, tensor in weights.items() if name != _UNUSED}
    with without_weights():
        network = DinoV2(**_infer(weights, path, head_width))
    return assign(network, weights, str(path))


def _from_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def rename(name: str) -> str:
        for pattern, ours in _NAMES_OF_HUGGING_FACE:
            name = re.sub(pattern, ours, name)
        return name

    renamed = {rename(name): tensor for name, tensor in weights.items()}
    for query in [found for found in map(_QUERY.match, renamed) if found]:
        block, part = query.groups()
        names = [f"{block}.attention.attention.{of}.{part}" for of in ("query", "key", "value")]
        renamed[f"{block}.attn.qkv.{part}"] = torch.cat([renamed.pop(name) for name in names])
    return renamed


def _infer(weights: Mapping[str, Tensor], path: Path, head_width: int) -> dict[str, int]:
    """Read the sizes off the shapes; what contradicts them is found by comparing all names."""
    try:
        width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
        blocks = [re.match(r"blocks\.(\d+)\.", name) for name in weights]
        return {
            "width": width,
            "depth": len({found[1] for found in blocks if found}),
            "num_heads": width // head_width,
            "patch_size": patch_size,
            "table_side": math.isqrt(weights["pos_embed"].shape[1] - 1),
        }
    except (LookupError, ArithmeticError, ValueError) as error:
        raise InvalidRequestError(
            f"expected {path} to hold the weights of DINOv2, found others: {error}"
        ) from error
