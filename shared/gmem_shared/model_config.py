"""``config.json`` of a model version: what the network is and what it was trained with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Frozen, and closed to unknown members."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SiTArchitecture(Strict):
    """SiT conditioned on a snippet (GMem v1); names follow the published checkpoints."""

    family: Literal["gmem-v1-sit"] = "gmem-v1-sit"
    input_size: int = Field(gt=0)
    """Side of the square latent."""
    patch_size: int = Field(gt=0)
    in_channels: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    snippet_dimension: int = Field(default=768, gt=0)
    qk_norm: bool = False
    snippet_scale: float = Field(default=1.0, gt=0)
    """The unit-length snippet is multiplied by this before the first linear layer (v1: 1)."""
    encoder_depth: int = Field(default=8, gt=0)
    """The block after which the REPA projectors read (1-based)."""
    projector_dimension: int = Field(default=2048, gt=0)
    projector_outputs: tuple[int, ...] = ()
    """Widths of the REPA targets; empty for a network without projectors."""


Architecture = Annotated[SiTArchitecture, Field(discriminator="family")]


class PixelSpace(Strict):
    """The network works on pixels: latent in [-1, 1], 8 bit = round(clamp(127.5 (x + 1)))."""

    kind: Literal["pixels"] = "pixels"


class ModelConfig(Strict):
    """Everything a service must know to serve ``network.safetensors``."""

    schema_version: Literal[1] = 1
    architecture: SiTArchitecture
    latent_space: PixelSpace = PixelSpace()
    path: Literal["linear", "cosine"] = "linear"
    """Interpolant between data (t = 0) and noise (t = 1)."""
    encoder: str
    """Id of the snippet encoder; a bank of another encoder is refused."""
    default_bank: str
    """The bank a request without ``bank`` draws from, e.g. ``digits@production``."""
    training_bank: str | None = None
    """The bank version the network was trained with, e.g. ``digits@sha256-…``; stands in for the
    default bank while that is of another encoder."""
    default_sampler: str
    default_steps: int = Field(gt=0)
