"""Every sampler of SiT, REPA, GMem v2 and EDM2, guided and unguided, with recorded noise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmem_model.guidance import GuidedNetwork, guide, weights
from gmem_model.latents import LatentScaling
from gmem_model.paths import (
    Combination,
    coefficients,
    drift,
    drift_variance,
    interpolate,
    score,
)
from gmem_model.samplers import integrate, plan
from gmem_model.samplers.adaptive import DOPRI5, dopri5
from gmem_model.samplers.dormand_prince import Tolerance
from gmem_model.samplers.edm import sigma_grid
from gmem_model.samplers.likelihood import log_likelihood
from gmem_model.samplers.transport import diffusion, interval
from gmem_shared.model_config import EDM, Guidance, Interpolant, Transport
from tests.numeric import golden_edm2, golden_repa, golden_sit, golden_v2
from tests.numeric.golden_cases import GoldenCase, handles

SIT, REPA, V2, EDM2 = "sit-original", "repa-sit", "gmem-v2-lightningdit", "edm2"

# The originals' names of what goes by another name here.
FORMS = {"SBDM": "sbdm", "inccreasing-decreasing": "increasing-decreasing"}
SAMPLERS = {"heun2": "heun", "Euler": "euler-maruyama", "Heun": "stochastic-heun"}
SIT_CHANNELS = 3


def guidance(params: dict[str, Any], **fixed: Any) -> Guidance:
    """Read the options of guidance."""
    bounds: dict[str, Any] = {}
    if params.get("cfg_interval") is True:
        start, end = params.get("cfg_interval_start"), params.get("cfg_interval_end")
        bounds = {"low": start or 0.0, "high": end}
    return Guidance(scale=params.get("cfg_scale", 1.0), **bounds, **fixed)


def programs_guidance(params: dict[str, Any], **fixed: Any) -> Guidance:
    """Read the options of a sampling program, which takes a scale of at most 1 for none."""
    return guidance(params | {"cfg_scale": max(1.0, params.get("cfg_scale", 1.0))}, **fixed)


def transport(options: Any, **changes: Any) -> Transport:
    if isinstance(options, dict):
        path, prediction, _loss_weight, train_eps, sample_eps = options["args"]
    else:
        path, prediction, _loss_weight, train_eps, sample_eps = options
        sample_eps = heeded(train_eps, sample_eps)
    return Transport(
        path=path.lower(),
        prediction=prediction,
        train_eps=train_eps,
        sample_eps=sample_eps,
        **changes,
    )


def heeded(train_eps: float | None, sample_eps: float | None) -> float | None:
    """Return SiT's sample_eps, which it ignores unless there is a train_eps, too."""
    return None if train_eps is None else sample_eps


# ---- SiT and GMem v2 ----


def sit(case: GoldenCase) -> tuple[GuidedNetwork, Guidance, Tensor]:
    options = programs_guidance(case.params, channels=SIT_CHANNELS)
    return GuidedNetwork.of(golden_sit.network(case), options), options, case.inputs["y"]


def v2(case: GoldenCase) -> tuple[GuidedNetwork, Guidance, Tensor]:
    options = programs_guidance(case.params, past_high="reference")
    return GuidedNetwork.of(golden_v2.network(case), options), options, case.inputs["c"]


FAMILIES: dict[str, Callable[[GoldenCase], tuple[GuidedNetwork, Guidance, Tensor]]]
FAMILIES = {SIT: sit, V2: v2}


@handles(SIT, "sampler.ode")
@handles(V2, "sampler.ode")
@torch.no_grad()
def sample_ode(case: GoldenCase) -> dict[str, Tensor]:
    networks, options, condition = FAMILIES[case.family](case)
    ode = case.params["ode"]
    process = transport(case.params["transport"], timestep_shift=ode.get("timestep_shift", 0.0))
    name = SAMPLERS.get(ode["sampling_method"], ode["sampling_method"])
    predict, reference = networks.predictors(condition)
    x0, reverse = case.inputs["latents"], ode.get("reverse", False)
    if name == DOPRI5:
        tolerance = Tolerance(rtol=ode["rtol"], atol=ode["atol"])
        guided = networks.predictor(condition, options)
        samples = dopri5(guided, x0, process, tolerance, reverse=reverse)
    else:
        table = plan(name, ode["num_steps"], process, options, reverse=reverse)
        samples = integrate(table, predict, x0, reference=reference, channels=networks.channels)
    return {"samples": samples}


@handles(SIT, "sampler.sde")
@handles(V2, "sampler.sde")
@torch.no_grad()
def sample_sde(case: GoldenCase) -> dict[str, Tensor]:
    networks, options, condition = FAMILIES[case.family](case)
    sde = case.params["sde"]
    process = transport(
        case.params["transport"],
        diffusion_form=FORMS.get(sde["diffusion_form"], sde["diffusion_form"]),
        diffusion_norm=sde["diffusion_norm"],
        last_step=sde["last_step"] and sde["last_step"].lower(),
        last_step_size=sde["last_step_size"],
    )
    table = plan(SAMPLERS[sde["sampling_method"]], sde["num_steps"], process, options)
    predict, reference = networks.predictors(condition)
    samples = integrate(
        table,
        predict,
        case.inputs["latents"],
        recorded(case),
        reference=reference,
        channels=networks.channels,
    )
    outputs = {"samples": samples}
    if "latent_mean" in case.inputs:
        multiplier = case.params["latent_multiplier"]
        scaling = LatentScaling(case.inputs["latent_mean"], case.inputs["latent_std"] / multiplier)
        outputs["denormalised"] = scaling.to_autoencoder(samples)
    return outputs


def recorded(case: GoldenCase) -> Callable[[int], Tensor]:
    """Return the recorded noise of each step; with guidance the originals drew it twice over.

    Noise is added after a step's only evaluation, or after the two of the step before.
    """
    rows, heun = len(case.inputs["latents"]), case.params["sde"]["sampling_method"] == "Heun"
    return lambda k: case.inputs["noise"][(k + 1) // 2 if heun else k, :rows]


@handles(SIT, "sampler.ode_likelihood")
def likelihood(case: GoldenCase) -> dict[str, Tensor]:
    ode, condition = case.params["ode"], case.inputs["y"]
    network = golden_sit.network(case).requires_grad_(requires_grad=False)
    predict, _ = GuidedNetwork(network).predictors(condition)
    logp, latent = log_likelihood(
        predict,
        case.inputs["data"],
        transport(case.params["transport"]),
        lambda k: 2 * case.inputs["eps01"][k] - 1,
        sampler=SAMPLERS.get(ode["sampling_method"], ode["sampling_method"]),
        num_steps=ode["num_steps"],
        tolerance=Tolerance(rtol=ode["rtol"], atol=ode["atol"]),
    )
    return {"logp": logp, "latent": latent}


@handles(SIT, "model.forward_with_cfg")
@torch.no_grad()
def sit_forward_with_cfg(case: GoldenCase) -> dict[str, Tensor]:
    x, t, y = (case.inputs[role] for role in ("x", "t", "y"))
    half = len(x) // 2
    both = golden_sit.network(case)(x[:half].repeat(2, 1, 1, 1), t, y)
    prediction, reference = both.split(half)
    weight = torch.tensor(case.params["cfg_scale"])
    guided = guide(prediction, reference, weight, channels=SIT_CHANNELS)
    unguided = reference[:, SIT_CHANNELS:]
    second = torch.cat([guided[:, :SIT_CHANNELS], unguided], dim=1)
    return {"x": torch.cat([guided, second])}


@handles(V2, "model.forward_with_cfg")
@torch.no_grad()
def v2_forward_with_cfg(case: GoldenCase) -> dict[str, Tensor]:
    x, t, c = (case.inputs[role] for role in ("x", "t", "c"))
    half = len(x) // 2
    prediction, reference = golden_v2.network(case)(x[:half].repeat(2, 1, 1, 1), t, c).split(half)
    options = guidance(case.params, past_high="reference")
    weight = weights(options, t[:1].double().numpy(), torch.float32)
    guided = guide(prediction, reference, torch.from_numpy(weight).float())
    return {"x": guided.repeat(2, 1, 1, 1)}


@handles(SIT, "path_math")
def path_math(case: GoldenCase) -> dict[str, Tensor]:
    process = transport(case.params["transport"])
    x, velocity, noise, t = (case.inputs[role] for role in ("x", "velocity", "noise", "t"))
    c = coefficients(process, t)
    x_t, u_t = interpolate(process, x, noise, t)
    from_velocity = combine(score(process, t), velocity, x)
    drift_of_score = drift(process.model_copy(update={"prediction": "score"}), t)
    outputs = {
        "alpha": c.alpha,
        "d_alpha": c.d_alpha,
        "sigma": c.sigma,
        "d_sigma": c.d_sigma,
        "drift": -per_row(drift_of_score.state) * x,
        "drift_var": drift_variance(process, t),
        "score_from_velocity": from_velocity,
        "noise_from_velocity": -per_row(c.sigma) * from_velocity,
        "velocity_from_score": combine(drift_of_score, velocity, x),
        "xt": x_t,
        "ut": u_t,
    }
    for role in case.case["outputs"]:
        if role.startswith("diffusion."):
            form = role.removeprefix("diffusion.")
            changes = {
                "diffusion_form": FORMS.get(form, form), "diffusion_norm": case.params["norm"]
            }  # fmt: skip
            outputs[role] = diffusion(process.model_copy(update=changes), t)
    return outputs


def combine(combination: Combination, prediction: Tensor, x: Tensor) -> Tensor:
    return per_row(combination.prediction) * prediction + per_row(combination.state) * x


def per_row(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


@handles(SIT, "check_interval")
def check_interval(case: GoldenCase) -> dict[str, Tensor]:
    rows = []
    for combination in case.params["combos"]:
        options = dict(zip(case.params["columns"], combination, strict=True))
        form = options["diffusion_form"]
        process = Transport(
            path=options["path"].lower(),
            prediction=options["prediction"],
            train_eps=options["train_eps"],
            sample_eps=heeded(options["train_eps"], options["sample_eps"]),
            diffusion_form=FORMS.get(form, form),
            last_step_size=options["last_step_size"],
        )
        ends = interval(process, sde=options["sde"])
        # In reverse the originals count time from the other end, too.
        rows.append([1 - end if options["reverse"] else end for end in ends])
    return {"t0_t1": torch.tensor(rows, dtype=torch.float64)}


# ---- REPA ----


@handles(REPA, "sampler.euler", "sampler.heun", "sampler.euler_maruyama")
@torch.no_grad()
def sample_repa(case: GoldenCase) -> dict[str, Tensor]:
    p = case.params
    options = Guidance(
        scale=max(1.0, p["cfg_scale"]), low=p["guidance_low"], high=p["guidance_high"]
    )
    networks = GuidedNetwork.of(golden_repa.network(case), options)
    name = case.kind.removeprefix("sampler.").replace("_", "-")
    table = plan(name, p["num_steps"], Interpolant(path=p["path_type"]), options)
    noise = case.inputs.get("noise")
    predict, reference = networks.predictors(case.inputs["y"])
    draw = None if noise is None else noise.__getitem__
    return {"samples": integrate(table, predict, case.inputs["latents"], draw, reference=reference)}


# ---- EDM2 ----


@handles(EDM2, "sampler.edm")
@torch.no_grad()
def sample_edm2(case: GoldenCase) -> dict[str, Tensor]:
    p = case.params
    options = Guidance(scale=p["guidance"])
    network, guide = (golden_edm2.network(case, name) for name in ("net", "gnet"))
    networks = GuidedNetwork.of(network, options, guide)
    table = plan("heun", p["num_steps"], edm(p), options)
    noise = case.inputs["noise"]
    labels = golden_edm2.labels(network, noise, case.inputs.get("labels"))
    predict, reference = networks.predictors(labels)
    draws = iter(case.inputs.get("churn_noise", ()))
    samples = integrate(table, predict, noise, lambda _k: next(draws), reference=reference)
    assert next(draws, None) is None, "some of the recorded noise was not asked for"
    return {"samples": samples}


@handles(EDM2, "sigma_grid")
def noise_levels(case: GoldenCase) -> dict[str, Tensor]:
    return {"t": torch.from_numpy(sigma_grid(edm(case.params), case.params["num_steps"]))}


def edm(params: dict[str, Any]) -> EDM:
    churn = {
        "S_churn": "churn",
        "S_min": "churn_min",
        "S_max": "churn_max",
        "S_noise": "churn_noise",
    }
    names = {name: name for name in ("sigma_min", "sigma_max", "rho")} | churn
    return EDM(**{ours: params[name] for name, ours in names.items() if name in params})
