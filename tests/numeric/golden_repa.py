"""REPA: SiT under labels with projectors."""

from typing import Any

import torch
from torch import Tensor

from gmem_model.sit import SiT
from gmem_shared.model_config import LabelCondition, SiTArchitecture
from tests.numeric.golden_cases import GoldenCase, handles

REPA = "repa-sit"

# Defaults of the original's constructor.
DEFAULTS: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "qk_norm": False,
    "num_classes": 1000,
    "encoder_depth": 8,
    "projector_dim": 2048,
    "z_dims": [768],
}


def network(case: GoldenCase) -> SiT:
    config = DEFAULTS | case.config
    same = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
    architecture = SiTArchitecture(
        **{name: config[name] for name in (*same, "mlp_ratio", "qk_norm", "encoder_depth")},
        condition=LabelCondition(num_classes=config["num_classes"]),
        projector_dimension=config["projector_dim"],
        projector_outputs=config["z_dims"],
    )
    sit = SiT(architecture)
    sit.load_state_dict(case.weights)
    return sit.to(case.dtype).eval()


@handles(REPA, "model.forward")
@torch.no_grad()
def forward(case: GoldenCase) -> dict[str, Tensor]:
    x, t = (case.inputs[role].to(case.dtype) for role in ("x", "t"))
    velocity, projections = network(case).forward_with_projections(x, t, case.inputs["y"])
    return {"x": velocity} | {f"z{k}": z for k, z in enumerate(projections)}
