"""GMem v1: the conditioned SiT, its samplers and its choice of snippets."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gmem_model.samplers import integrate, plan
from gmem_model.sit import SNIPPET_DROPOUT, SiT
from gmem_model.snippet_selection import select_rows
from gmem_model.transformer import Transformer
from gmem_shared.model_config import Interpolant, SiTArchitecture, SnippetCondition
from tests.numeric.golden_cases import GoldenCase, handles

SIT, SELECT = "gmem-v1-sit", "gmem-v1-select"

# Defaults of the original's constructor.
DEFAULTS: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "qk_norm": False,
    "encoder_depth": 8,
    "projector_dim": 2048,
    "z_dims": [768],
}


def network(case: GoldenCase) -> SiT:
    config = DEFAULTS | case.config
    same = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
    architecture = SiTArchitecture(
        **{name: config[name] for name in (*same, "mlp_ratio", "qk_norm", "encoder_depth")},
        condition=SnippetCondition(),
        projector_dimension=config["projector_dim"],
        projector_outputs=config["z_dims"],
    )
    sit = SiT(architecture)
    sit.load_state_dict(case.weights)
    return sit.to(case.dtype).eval()


@handles(SIT, "model.forward")
@torch.no_grad()
def forward(case: GoldenCase) -> dict[str, Tensor]:
    sit = network(case)
    x, t, cond = (case.inputs[role].to(case.dtype) for role in ("x", "t", "cond"))
    outputs: dict[str, Tensor] = {}
    if case.params.get("intermediates"):
        record(sit, len(x), outputs)
    velocity, projections = sit.forward_with_projections(
        x, t, cond, keep=kept(case, SNIPPET_DROPOUT)
    )
    outputs |= {"x": velocity} | {f"z{k}": z for k, z in enumerate(projections)}
    return {role: outputs[role] for role in case.case["outputs"]}


def kept(case: GoldenCase, dropout: float) -> Tensor | None:
    """Return the mask as a network that drops this share takes it, whatever share was dropped."""
    mask = case.inputs.get("dropout_mask")
    scale = (1 - dropout) / (1 - case.params.get("dropout_p", dropout))
    return None if mask is None else mask * scale


def record(network: Transformer, rows: int, outputs: dict[str, Tensor]) -> None:
    """Note what the named parts of the network return; what belongs to padding is cut off."""

    def keep(role: str, part: nn.Module) -> None:
        def hook(_part: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[role] = output[:rows]

        part.register_forward_hook(hook)

    keep("patch_tokens", network.x_embedder)
    keep("t_emb", network.t_embedder)
    keep("cond_emb", network.condition_projection)
    keep("final_tokens", network.final_layer)
    for number, block in enumerate(network.blocks):
        keep(f"block{number}", block)


@handles(SIT, "sampler.euler", "sampler.heun", "sampler.euler_maruyama")
@torch.no_grad()
def sample(case: GoldenCase) -> dict[str, Tensor]:
    sit = network(case)
    cond = case.inputs["cond"].to(case.dtype)

    def velocity(x: Tensor, t: float) -> Tensor:
        return sit(x.to(case.dtype), torch.full((len(x),), t, dtype=case.dtype), cond)

    name = case.kind.removeprefix("sampler.").replace("_", "-")
    table = plan(name, case.params["num_steps"], Interpolant(path=case.params["path_type"]))
    noise = case.inputs.get("noise")
    draw = None if noise is None else noise.__getitem__
    return {"samples": integrate(table, velocity, case.inputs["latents"], draw)}


@handles(SELECT, "snippet_selection")
def select(case: GoldenCase) -> dict[str, Tensor]:
    selection = select_rows(case.inputs["z"], case.inputs["freq"].numpy())
    outputs = {
        "normal": selection.normal,
        "uniform": selection.uniform,
        "index": selection.rows,
        "cond": F.normalize(case.inputs["bank"][selection.rows], eps=1e-12),
    }
    return {role: outputs[role] for role in case.case["outputs"]}
