"""EDM2: the preconditioned network, its loss, its layers and its averages of weights."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from torch import Tensor, nn

from gmem_model.edm2 import ema, training
from gmem_model.edm2.ema import Profile
from gmem_model.edm2.layers import (
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)
from gmem_model.edm2.network import EDM2
from gmem_model.network import Network
from gmem_shared.model_config import EDM2Architecture, LabelCondition, NoCondition
from tests.numeric.golden_cases import GoldenCase, handles

FAMILY = "edm2"


def architecture(config: dict[str, Any]) -> EDM2Architecture:
    renamed = {"img_resolution": "input_size", "img_channels": "in_channels"}
    ours = {renamed.get(name, name): value for name, value in config.items()}
    classes = ours.pop("label_dim")
    ours.pop("use_fp16", None)  # only heeded on a GPU; the cases were computed in float32
    condition = LabelCondition(num_classes=classes) if classes else NoCondition()
    return EDM2Architecture(condition=condition, **ours)


def network(case: GoldenCase, name: str = "net") -> EDM2:
    edm2 = EDM2(architecture(case.config[name]))
    edm2.load_state_dict(case.weights_under(f"model.{name}."))
    return edm2.eval()


def class_ids(one_hot: Tensor) -> Tensor:
    """Return the ids that rows of a one-hot matrix stand for; -1 for a row of zeros."""
    ids = torch.where(one_hot.any(1), one_hot.argmax(1), -1)
    assert torch.equal(F.one_hot(ids + 1, one_hot.shape[1] + 1)[:, 1:].to(one_hot.dtype), one_hot)
    return ids


def labels(edm2: Network, x: Tensor, one_hot: Tensor | None) -> Tensor:
    """Return the conditions of the rows of ``x``; the original takes no matrix for no classes."""
    return edm2.no_condition(len(x)) if one_hot is None else class_ids(one_hot)


@handles(FAMILY, "model.forward")
@torch.no_grad()
def forward(case: GoldenCase) -> dict[str, Tensor]:
    edm2 = network(case)
    x, sigma = case.inputs["x"], case.inputs["sigma"]
    conditions = labels(edm2, x, case.inputs.get("class_labels"))
    outputs: dict[str, Tensor] = {}

    def keep(_part: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs["F_x"] = output

    edm2.unet.register_forward_hook(keep)
    outputs |= {"denoised": edm2(x, sigma, conditions), "logvar": edm2.log_variance(sigma)}
    return {role: outputs[role] for role in case.case["outputs"]}


@handles(FAMILY, "model.forward_uncond")
@torch.no_grad()
def forward_unconditional(case: GoldenCase) -> dict[str, Tensor]:
    edm2 = network(case, "gnet")
    x = case.inputs["x"]
    return {"denoised": edm2(x, case.inputs["sigma"], edm2.no_condition(len(x)))}


@handles(FAMILY, "ops")
@torch.no_grad()
def ops(case: GoldenCase) -> dict[str, Tensor]:
    x, b, t = (case.inputs[role] for role in ("x", "b", "t"))
    conv_weights, fourier_weights = (
        case.weights_under("model.conv."),
        case.weights_under("model.fourier."),
    )
    out_channels, in_channels, kernel, _ = conv_weights["weight"].shape
    conv = MPConv(in_channels, out_channels, kernel)
    conv.load_state_dict(conv_weights)
    fourier = MPFourier(len(fourier_weights["freqs"]))
    fourier.load_state_dict(fourier_weights)
    return {
        "normalize": normalize(x),
        "pixel_norm": normalize(x, dim=1),
        "down": resample(x, "down"),
        "up": resample(x, "up"),
        "silu": mp_silu(x),
        "sum": mp_sum(x, b, 0.3),
        "cat": mp_cat(x, b, 0.5),
        "fourier": fourier(t),
        "conv": conv(x, gain=0.7),
    }


@handles(FAMILY, "train.edm2loss")
@torch.no_grad()
def denoising_loss(case: GoldenCase) -> dict[str, Tensor]:
    p, i = case.params, case.inputs
    sigma = training.noise_levels(i["rnd_normal"].flatten(), p["P_mean"], p["P_std"])
    edm2 = network(case).train()
    return {"loss": training.loss(edm2, i["images"], class_ids(i["labels"]), sigma, i["noise"])}


@handles(FAMILY, "lr")
def learning_rate(case: GoldenCase) -> dict[str, Tensor]:
    p = case.params
    fixed = {"reference": p["ref_lr"], "reference_batches": p["ref_batches"]}
    rates = [training.learning_rate(n, p["batch_size"], **fixed) for n in p["cur_nimg"]]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


@handles(FAMILY, "phema")
def averages(case: GoldenCase) -> dict[str, Tensor]:
    p = case.params
    exponents = [ema.std_to_exponent(std) for std in p["stds"]]
    stored = [Profile(*pair) for pair in zip(p["in_ofs"], p["in_std"], strict=True)]
    outputs = {
        "std_to_exp": exponents,
        "exp_to_std": [ema.exponent_to_std(exponent) for exponent in exponents],
        "beta": [[ema.decay(s, t, p["t_delta"]) for t in p["t_next"]] for s in p["stds"]],
        "posthoc": ema.coefficients(stored, [Profile(p["out_ofs"], s) for s in p["out_std"]]),
        "response": ema.response(Profile(p["resp_ofs"], p["resp_std"]), p["resp_len"]),
    }
    return {role: torch.as_tensor(value, dtype=torch.float64) for role, value in outputs.items()}
