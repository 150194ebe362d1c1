"""How the published families are sampled: what a checkpoint does not say about itself.

Each entry is what the authors' own sampling programs do by default or in their published commands.
SiT's program takes its ODE by dopri5 unless asked for the SDE; only the latter has a fixed grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gmem_shared.model_config import EDM, Guidance, Interpolant, Process, Transport

Family = Literal["gmem-v1", "gmem-v2", "sit", "repa", "edm2"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a family turns noise into images.

    Attributes:
        guidance: Interval and channels; a request that names no scale is not guided.
        sampler, steps: Of a request that names none.
        latent_space: One of `gmem_model.latents.LATENT_SPACES`.
    """

    process: Process
    guidance: Guidance | None
    sampler: str
    steps: int
    latent_space: str


PUBLISHED: dict[Family, Behaviour] = {
    "gmem-v1": Behaviour(Interpolant(), None, "euler-maruyama", 250, "sd-vae"),
    "repa": Behaviour(Interpolant(), Guidance(high=0.7), "euler-maruyama", 250, "sd-vae"),
    "sit": Behaviour(
        Transport(diffusion_form="sigma", last_step="mean", last_step_size=0.04),
        Guidance(channels=3),
        "euler-maruyama",
        250,
        "sd-vae-sit",
    ),
    "gmem-v2": Behaviour(
        Transport(
            timestep_shift=0.3, diffusion_form="linear", last_step="mean", last_step_size=0.004
        ),
        Guidance(low=0.89, past_high="reference"),
        "stochastic-heun",
        50,
        "va-vae",
    ),
    "edm2": Behaviour(EDM(), None, "heun", 32, "edm2-sd-vae"),
}
