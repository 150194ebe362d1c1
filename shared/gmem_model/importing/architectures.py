"""The architecture of a transformer, read off the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gmem_model.checkpoint import PROJECTORS
from gmem_model.importing.layouts import Checkpoint, depth
from gmem_model.presets import PRESETS
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import (
    Architecture,
    EDM2Architecture,
    LabelCondition,
    LightningDiTArchitecture,
    SiTArchitecture,
    SnippetCondition,
)

_HEADS = {
    (a.depth, a.hidden_size): a.num_heads
    for name, a in PRESETS.items()
    if name != "digits" and not isinstance(a, EDM2Architecture)
}


@dataclass(frozen=True, slots=True)
class Unshown:
    """What shapes do not always show.

    Attributes:
        num_heads: Default: from the head width of rotary tables or normed queries, else that of
            the published network of this depth and width.
        encoder_depth: The block after which projectors read; default: what was published, or the
            last block of a shallower network.
    """

    num_heads: int | None = None
    encoder_depth: int | None = None


def infer_architecture(
    checkpoint: Checkpoint, unshown: Unshown, *, projectors: bool
) -> Architecture:
    """Return the architecture of a checkpoint's network, with its projectors if they are kept.

    Raises:
        InvalidRequestError: The weights contradict each other or leave the heads open.
    """
    if checkpoint.architecture is not None:
        return checkpoint.architecture
    weights = checkpoint.weights
    try:
        common = _sizes(weights, unshown) | (_projectors(weights) if projectors else {})
        if checkpoint.family == "gmem-v2":
            return _lightningdit(weights, unshown, common)
        return _sit(checkpoint, unshown, common)
    except (LookupError, ArithmeticError, ValueError) as error:
        raise InvalidRequestError(
            f"expected the weights of a {checkpoint.family} network, found some that cannot be: "
            f"{error!r}"
        ) from error


def _sizes(weights: Mapping[str, Tensor], unshown: Unshown) -> dict[str, Any]:
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    _, tokens, embedded = weights["pos_embed"].shape
    if embedded != width:
        raise ValueError(f"tokens of {width} entries with positions of {embedded}")
    grid = math.isqrt(tokens)
    outputs = weights["final_layer.linear.bias"].numel()
    return {
        "input_size": grid * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": depth(weights),
        "num_heads": unshown.num_heads or _heads(weights, width),
        "qk_norm": "blocks.0.attn.q_norm.weight" in weights,
        "learn_sigma": outputs == 2 * channels * patch**2,
    }


def _heads(weights: Mapping[str, Tensor], width: int) -> int:
    for name in ("blocks.0.attn.q_norm.weight", "feat_rope.freqs_cos"):
        if name in weights:
            return width // weights[name].shape[-1]
    heads = _HEADS.get((depth(weights), width))
    if heads is None:
        raise InvalidRequestError(
            f"expected a published size, found depth {depth(weights)} and width {width}, which do "
            f"not tell the number of attention heads; give it with --num-heads"
        )
    return heads


def _projectors(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = next((p for p in PROJECTORS if f"{p}0.0.weight" in weights), None)
    if stem is None:
        return {}
    outputs: list[int] = []
    while f"{stem}{len(outputs)}.4.weight" in weights:
        outputs.append(weights[f"{stem}{len(outputs)}.4.weight"].shape[0])
    hidden = weights[f"{stem}0.0.weight"].shape[0]
    return {"projector_outputs": tuple(outputs), "projector_dimension": hidden}


def _sit(checkpoint: Checkpoint, unshown: Unshown, common: dict[str, Any]) -> SiTArchitecture:
    weights = checkpoint.weights
    condition: SnippetCondition | LabelCondition
    if checkpoint.family == "gmem-v1":
        condition = _snippet(weights)
    else:  # one more row stands for no class
        rows = weights["y_embedder.embedding_table.weight"].shape[0]
        condition = LabelCondition(num_classes=rows - 1)
    published = SiTArchitecture.model_fields["encoder_depth"].default
    return SiTArchitecture(
        **common,
        condition=condition,
        mlp_ratio=weights["blocks.0.mlp.fc1.bias"].numel() / common["hidden_size"],
        encoder_depth=unshown.encoder_depth
        or checkpoint.encoder_depth
        or min(published, common["depth"]),
    )


def _lightningdit(
    weights: Mapping[str, Tensor], unshown: Unshown, common: dict[str, Any]
) -> LightningDiTArchitecture:
    plain = weights.get("blocks.0.mlp.fc1.bias")
    ratio = 4.0 if plain is None else plain.numel() / common["hidden_size"]
    published = LightningDiTArchitecture.model_fields["encoder_depth"].default
    return LightningDiTArchitecture(
        **common,
        mlp_ratio=ratio,
        condition=_snippet(weights),
        swiglu=plain is None,
        rope="feat_rope.freqs_cos" in weights,
        rmsnorm="blocks.0.norm1.weight" in weights,
        shift=weights["blocks.0.adaLN_modulation.1.bias"].numel() == 6 * common["hidden_size"],
        encoder_depth=unshown.encoder_depth or min(published, common["depth"]),
    )


def _snippet(weights: Mapping[str, Tensor]) -> SnippetCondition:
    return SnippetCondition(dimension=weights["condition_projection.linear.weight"].shape[1])
