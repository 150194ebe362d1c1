"""``config.json`` of a model version: what the network is, and how noise becomes images with it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_STEPS = 10_000
"""Of a model's default: far more than any sampler needs, few enough to tabulate."""


class Strict(BaseModel):
    """Frozen, and closed to unknown members and to numbers that JSON cannot tell."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class SnippetCondition(Strict):
    """One vector out of a memory bank (GMem)."""

    kind: Literal["snippet"] = "snippet"
    dimension: int = Field(default=768, gt=0)
    scale: float = Field(default=1.0, gt=0)
    """The unit-length snippet is multiplied by this before the first linear layer (GMem: 1)."""


class LabelCondition(Strict):
    """One class id in 0 … ``num_classes`` - 1, or -1 for no class."""

    kind: Literal["label"] = "label"
    num_classes: int = Field(gt=0)


class NoCondition(Strict):
    """An unconditional network."""

    kind: Literal["none"] = "none"


Condition = Annotated[SnippetCondition | LabelCondition | NoCondition, Field(discriminator="kind")]


class TransformerArchitecture(Strict):
    """What every diffusion transformer has; names follow the published code."""

    input_size: int = Field(gt=0)
    """Side of the square latent."""
    patch_size: int = Field(gt=0)
    in_channels: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    qk_norm: bool = False
    learn_sigma: bool = False
    """The last layer gives twice the channels; the second half is not used for sampling."""
    projector_dimension: int = Field(default=2048, gt=0)
    projector_outputs: tuple[int, ...] = ()
    """Widths of the REPA targets; empty for a network without projectors."""


class SiTArchitecture(TransformerArchitecture):
    """SiT: with a label as published, with projectors REPA, with a snippet GMem v1."""

    family: Literal["sit"] = "sit"
    condition: SnippetCondition | LabelCondition = Field(discriminator="kind")
    encoder_depth: int = Field(default=8, gt=0)
    """The block after which the projectors read (1-based)."""


class LightningDiTArchitecture(TransformerArchitecture):
    """LightningDiT with a snippet (GMem v2)."""

    family: Literal["lightningdit"] = "lightningdit"
    condition: SnippetCondition = SnippetCondition()
    swiglu: bool = True
    rope: bool = True
    rmsnorm: bool = True
    shift: bool = True
    """Whether the modulation of a block shifts as well as scales."""
    encoder_depth: int = Field(default=4, gt=0)
    """The block after which the projector reads (1-based)."""


Factor = Annotated[int, Field(gt=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]


class EDM2Architecture(Strict):
    """EDM2's magnitude-preserving U-Net and its preconditioning; names follow the published code.

    ``input_size`` and ``in_channels`` are the original's ``img_resolution`` and ``img_channels``.
    The sizes are bounded because a foreign file states them, whatever weights it holds.
    """

    family: Literal["edm2"] = "edm2"
    input_size: int = Field(gt=0)
    in_channels: int = Field(gt=0)
    condition: LabelCondition | NoCondition = Field(discriminator="kind")
    model_channels: int = Field(default=192, gt=0, le=65536)
    channel_mult: tuple[Factor, ...] = Field(default=(1, 2, 3, 4), min_length=1, max_length=16)
    channel_mult_noise: Factor | None = None
    channel_mult_emb: Factor | None = None
    num_blocks: Factor = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    label_balance: Share = 0.5
    concat_balance: Share = 0.5
    channels_per_head: int = Field(default=64, gt=0)
    dropout: Share = 0.0
    res_balance: Share = 0.3
    attn_balance: Share = 0.3
    clip_act: float | None = Field(default=256, gt=0)
    sigma_data: float = Field(default=0.5, gt=0)
    logvar_channels: int = Field(default=128, gt=0)


Architecture = Annotated[
    SiTArchitecture | LightningDiTArchitecture | EDM2Architecture, Field(discriminator="family")
]


class PixelSpace(Strict):
    """The network works on pixels: latent in [-1, 1]."""

    kind: Literal["pixels"] = "pixels"
    eight_bit: Literal["rounded", "sit"] = "rounded"
    """Formula of the last step, see `gmem_model.images`."""


class AutoencoderArchitecture(Strict):
    """A convolutional autoencoder of the latent diffusion family (arXiv 2112.10752)."""

    channels: int = Field(default=128, gt=0, multiple_of=32)
    channel_mult: tuple[int, ...] = Field(default=(1, 2, 4, 4), min_length=1)
    num_res_blocks: int = Field(default=2, gt=0)
    """Of the encoder; the decoder has one more per level."""
    attn_resolutions: tuple[int, ...] = ()
    """Sides, at images of ``resolution``, of the levels with attention; the middle always has."""
    resolution: int = Field(default=256, gt=0)
    z_channels: int = Field(default=4, gt=0)
    image_channels: int = Field(default=3, gt=0)

    @property
    def factor(self) -> int:
        """Pixels per side of a latent entry."""
        return 1 << (len(self.channel_mult) - 1)


class AutoencoderSpace(Strict):
    """The network works on latents of an autoencoder, ``autoencoder.safetensors``.

    network latent = (autoencoder latent - mean) / std, per channel or with one value for all.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    autoencoder: AutoencoderArchitecture
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    eight_bit: Literal["gmem-v1", "sit", "edm2-latent"]
    """Formula of the last step, see `gmem_model.images`."""

    @model_validator(mode="after")
    def _scaling_fits_channels(self) -> Self:
        sizes = {1, self.autoencoder.z_channels}
        if len(self.mean) not in sizes or len(self.std) not in sizes or min(self.std) <= 0:
            raise ValueError(
                f"expected 1 or {self.autoencoder.z_channels} means and positive stds, found "
                f"{len(self.mean)} and {len(self.std)}"
            )
        return self


LatentSpace = Annotated[PixelSpace | AutoencoderSpace, Field(discriminator="kind")]


class Interpolant(Strict):
    """GMem v1 and REPA: t = 0 is data, t = 1 noise; the network predicts the velocity."""

    kind: Literal["interpolant"] = "interpolant"
    path: Literal["linear", "cosine"] = "linear"


class Transport(Strict):
    """SiT and GMem v2: t = 0 is noise, t = 1 data; a step count of N means a grid of N times."""

    kind: Literal["transport"] = "transport"
    path: Literal["linear", "gvp", "vp"] = "linear"
    prediction: Literal["velocity", "noise", "score"] = "velocity"
    train_eps: float | None = None
    sample_eps: float | None = None
    timestep_shift: float = Field(default=0.0, ge=0)
    """Warps the grid of an ODE towards noise (GMem v2: 0.3); 0 leaves it even."""
    diffusion_form: Literal[
        "constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"
    ] = "sigma"
    diffusion_norm: float = 1.0
    last_step: Literal["mean", "tweedie", "euler"] | None = "mean"
    last_step_size: float = Field(default=0.04, ge=0)


class EDM(Strict):
    """EDM2: noise levels sigma instead of times; the network predicts the denoised image."""

    kind: Literal["edm"] = "edm"
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = Field(default=7.0, gt=0)
    churn: float = Field(default=0.0, ge=0)
    churn_min: float = Field(default=0.0, ge=0)
    churn_max: float | None = None
    churn_noise: float = 1.0


Process = Annotated[Interpolant | Transport | EDM, Field(discriminator="kind")]


class Guidance(Strict):
    """reference + scale (prediction - reference), while the time lies in [low, high].

    The reference is the network itself without condition, or a second network with the same one
    (``guide.safetensors``). Times are those of the process. Outside the interval the plain
    prediction is used.
    """

    scale: float = Field(default=1.0, ge=0)
    """Of a request that names none; 1 is no guidance."""
    low: float = 0.0
    high: float | None = None
    """No bound by default."""
    past_high: Literal["prediction", "reference"] = "prediction"
    """What is used beyond ``high``; the published GMem v2 code goes on with the reference."""
    channels: int | None = Field(default=None, gt=0)
    """Only the first so many channels are guided (SiT as published: 3); default all."""
    guide: EDM2Architecture | None = None
    """Architecture of the second network."""


class ClassName(Strict):
    """One class of a label model."""

    id: int
    name: str
    aliases: tuple[str, ...] = ()


class ModelConfig(Strict):
    """Everything a service must know to serve ``network.safetensors``."""

    schema_version: Literal[1] = 1
    architecture: Architecture
    latent_space: LatentSpace = PixelSpace()
    process: Process = Interpolant()
    guidance: Guidance | None = None
    """``None``: the model cannot be guided."""
    encoder: str | None = None
    """Id of the snippet encoder; a bank of another encoder is refused. Snippet models only."""
    default_bank: str | None = None
    """The bank a request without ``bank`` draws from, e.g. ``digits@production``."""
    training_bank: str | None = None
    """The bank version the network was trained with, e.g. ``digits@sha256-…``; stands in for the
    default bank while that is of another encoder."""
    classes: tuple[ClassName, ...] = ()
    """Names of the classes of a label model; without them a class is known by its id."""
    default_sampler: str
    default_steps: int = Field(gt=0, le=MAX_STEPS)

    @model_validator(mode="after")
    def _bank_belongs_to_snippets(self) -> Self:
        takes_snippets = self.architecture.condition.kind == "snippet"
        if takes_snippets != (self.encoder is not None):
            raise ValueError("expected an encoder for a network that takes snippets, and only then")
        if takes_snippets != (self.default_bank is not None):
            raise ValueError("expected a default_bank for a network that takes snippets, only then")
        return self

    @model_validator(mode="after")
    def _network_works_on_the_latents(self) -> Self:
        channels = self.architecture.in_channels
        space = self.latent_space
        if isinstance(space, AutoencoderSpace) and space.autoencoder.z_channels != channels:
            raise ValueError(
                f"expected an autoencoder with the network's {channels} latent channels, found "
                f"{space.autoencoder.z_channels}"
            )
        return self
