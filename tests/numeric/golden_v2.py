"""GMem v2: LightningDiT under snippets."""

from typing import Any

import torch
from torch import Tensor

from gmem_model.lightningdit import LightningDiT
from gmem_shared.model_config import LightningDiTArchitecture
from tests.numeric.golden_cases import GoldenCase, handles
from tests.numeric.golden_v1 import record

LIGHTNINGDIT = "gmem-v2-lightningdit"
FEATURES = 768

# Defaults of the original's constructor.
DEFAULTS: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "learn_sigma": False,
    "use_qknorm": False,
    "use_swiglu": False,
    "use_rope": False,
    "use_rmsnorm": False,
    "wo_shift": False,
    "projector_dim": 2048,
}


def network(case: GoldenCase) -> LightningDiT:
    variant = case.params.get("variant")
    config = DEFAULTS | (case.config if variant is None else case.config[variant])
    prefix = case.file["state_dict_prefix"] if variant is None else f"model.{variant}."
    weights = case.weights_under(prefix)
    same = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
    architecture = LightningDiTArchitecture(
        **{name: config[name] for name in (*same, "mlp_ratio", "learn_sigma")},
        qk_norm=config["use_qknorm"],
        swiglu=config["use_swiglu"],
        rope=config["use_rope"],
        rmsnorm=config["use_rmsnorm"],
        shift=not config["wo_shift"],
        projector_dimension=config["projector_dim"],
        projector_outputs=(FEATURES,) if "projector.0.0.weight" in weights else (),
    )
    lightningdit = LightningDiT(architecture)
    lightningdit.load_state_dict(weights)
    return lightningdit.to(case.dtype).eval()


@handles(LIGHTNINGDIT, "model.forward")
@torch.no_grad()
def forward(case: GoldenCase) -> dict[str, Tensor]:
    lightningdit = network(case)
    x, t, snippets = (case.inputs[role].to(case.dtype) for role in ("x", "t", "c"))
    outputs: dict[str, Tensor] = {}
    if case.params.get("intermediates"):
        record(lightningdit, len(x), outputs)
    velocity, projections = lightningdit.forward_with_projections(
        x, t, snippets, keep=case.inputs.get("dropout_mask")
    )
    outputs["x"] = velocity
    if projections:
        outputs["z"] = projections[0]
    return {role: outputs[role] for role in case.case["outputs"]}
