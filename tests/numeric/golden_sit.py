"""SiT as published: labels, and a second half of the channels that sampling leaves out."""

from typing import Any

import torch
from torch import Tensor

from gmem_model.sit import SiT
from gmem_shared.model_config import LabelCondition, SiTArchitecture
from tests.numeric.golden_cases import GoldenCase, handles

SIT = "sit-original"

# Defaults of the original's constructor.
DEFAULTS: dict[str, Any] = {"mlp_ratio": 4.0, "num_classes": 1000, "learn_sigma": True}


def network(case: GoldenCase) -> SiT:
    config = DEFAULTS | case.config
    same = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
    architecture = SiTArchitecture(
        **{name: config[name] for name in (*same, "mlp_ratio", "learn_sigma")},
        condition=LabelCondition(num_classes=config["num_classes"]),
    )
    sit = SiT(architecture)
    sit.load_state_dict(case.weights)
    return sit.to(case.dtype).eval()


@handles(SIT, "model.forward")
@torch.no_grad()
def forward(case: GoldenCase) -> dict[str, Tensor]:
    x, t = (case.inputs[role].to(case.dtype) for role in ("x", "t"))
    return {"x": network(case)(x, t, case.inputs["y"])}
