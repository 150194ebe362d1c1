"""What the trainer minimises, draws and averages, for every family that predicts a flow."""

from dataclasses import replace

import torch
from torch import Tensor

from gmem_model.losses import cosine_loss, lognormal_times, projection_loss, regression
from gmem_model.network import Network
from gmem_model.paths import PathProcess
from gmem_model.transformer import Transformer
from gmem_shared.model_config import Interpolant, Transport
from gmem_trainer.training.batches import Batch, drop_labels
from gmem_trainer.training.objective import Objective
from gmem_trainer.training.parallel import ALONE
from gmem_trainer.training.recipe import ConstantAverage, TrainingRecipe
from gmem_trainer.training.state import TrainingState
from tests.numeric import golden_repa, golden_sit, golden_v2
from tests.numeric.golden_cases import GoldenCase, handles
from tests.numeric.golden_repa import REPA
from tests.numeric.golden_sit import SIT
from tests.numeric.golden_v2 import LIGHTNINGDIT


def transport(arguments: list[str | float | None]) -> tuple[Transport, TrainingRecipe]:
    """Read path, prediction, loss weight and the two eps of the original's constructor."""
    path, prediction, weight, train_eps, sample_eps = arguments
    process = Transport(
        path=str(path).lower(), prediction=prediction, train_eps=train_eps, sample_eps=sample_eps
    )
    return process, TrainingRecipe(steps=1, loss_weight=weight or "none")


def gradients(case: GoldenCase, network: Network, total: Tensor) -> dict[str, Tensor]:
    total.backward()
    wanted = [role for role in case.case["outputs"] if role.startswith("grad.")]
    parameters = dict(network.named_parameters())
    return {role: parameters[role.removeprefix("grad.")].grad for role in wanted}


def evaluate(
    case: GoldenCase, network: Network, process: PathProcess, recipe: TrainingRecipe, batch: Batch
) -> dict[str, Tensor]:
    """Return the total as the trainer descends it, its gradients, and its parts per row."""
    total = Objective(network, process, recipe)(batch)["loss"]
    outputs = {"total": total} | gradients(case, network, total)
    assert isinstance(network, Transformer)
    with torch.no_grad():
        task = regression(process, batch.latents, batch.noise, batch.times, recipe.loss_weight)
        prediction, projections = network.forward_with_projections(
            task.x_t, batch.times, batch.conditions, keep=batch.keep
        )
        outputs |= {"loss": task.loss(prediction), "pred": prediction}
        outputs |= {"cos_loss": cosine_loss(prediction, task.target)}
        if projections:
            outputs["proj_loss"] = projection_loss(projections, batch.features).mean()
    outputs["denoising_loss"] = outputs["loss"]
    return {role: outputs[role] for role in case.case["outputs"]}


@handles(REPA, "train.silloss")
def silloss(case: GoldenCase) -> dict[str, Tensor]:
    process = Interpolant(path=case.params["path_type"])
    inputs = case.inputs
    if case.params["weighting"] == "lognormal":
        times = lognormal_times(process, inputs["time_normal"].flatten())
    else:
        times = inputs["time_uniform"].flatten()
    targets = sorted(role for role in inputs if role.startswith("z_target"))
    recipe = TrainingRecipe(steps=1, projection_weight=case.params["proj_coeff"])
    batch = Batch(
        inputs["images"], inputs["noise"], times, inputs["y"],
        features=tuple(inputs[role] for role in targets),
    )  # fmt: skip
    return evaluate(case, golden_repa.network(case), process, recipe, batch)


@handles(SIT, "train.transport_loss")
def transport_loss(case: GoldenCase) -> dict[str, Tensor]:
    process, recipe = transport(case.params["transport"])
    batch = Batch(*(case.inputs[role] for role in ("x1", "x0", "t", "y")))
    return evaluate(case, golden_sit.network(case), process, recipe, batch)


@handles(LIGHTNINGDIT, "train.gmem_loss")
def gmem_loss(case: GoldenCase) -> dict[str, Tensor]:
    options = case.params["transport"]
    process, recipe = transport(options["args"])
    # The original compares directions of velocities only.
    cosine = options["use_cosine_loss"] and process.prediction == "velocity"
    recipe = replace(
        recipe, cosine_weight=float(cosine), projection_weight=case.params["proj_loss_weight"]
    )
    batch = Batch(
        *(case.inputs[role] for role in ("x1", "x0", "t", "c_raw", "dropout_mask")),
        features=(case.inputs["z"],),
    )
    return evaluate(case, golden_v2.network(case), process, recipe, batch)


@handles(LIGHTNINGDIT, "time_sampling.lognorm")
def lognormal(case: GoldenCase) -> dict[str, Tensor]:
    process, _ = transport(case.params["transport"]["args"])
    return {"t": lognormal_times(process, case.inputs["normals"])}


@handles(REPA, "label_drop")
@torch.no_grad()
def label_drop(case: GoldenCase) -> dict[str, Tensor]:
    labels = drop_labels(case.inputs["y"], case.inputs["force_drop_ids"] == 1)
    return {"emb": golden_repa.network(case).y_embedder(labels)}


@handles(REPA, "train.ema")
def average(case: GoldenCase) -> dict[str, Tensor]:
    recipe = TrainingRecipe(steps=1, average=ConstantAverage(case.params["decay"]))
    state = TrainingState(golden_repa.network(case), recipe, ALONE)
    averaged = state.averaged.blocks[0].attn.proj.bias
    with torch.no_grad():
        averaged.copy_(case.inputs["ema_before"])
    state.average()
    return {"ema_after": averaged}
