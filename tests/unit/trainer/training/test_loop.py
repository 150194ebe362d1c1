import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Interpolant, LabelCondition, Transport
from gmem_trainer.training.batches import Examples
from gmem_trainer.training.loop import Step, train
from gmem_trainer.training.parallel import World
from gmem_trainer.training.recipe import ConstantAverage, TrainingRecipe


class Killed(BaseException):
    """Stands for the moment at which the process dies."""


@pytest.fixture
def data() -> Examples:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 8, 8, generator=random) * 2 - 1
    snippets = torch.nn.functional.normalize(torch.randn(40, 64, generator=random))
    return Examples(images, snippets)


def ignore(step: Step) -> None:
    pass


def run(tiny, data, checkpoint: Path, *, seed=0, every=2, report=ignore, process=None):
    return train(
        tiny.training,
        tiny.architecture,
        process or Interpolant(),
        data,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=every,
        report=report,
    )


def losses_of(tiny, data, folder: Path, **options) -> list[dict[str, float]]:
    seen: list[dict[str, float]] = []
    run(tiny, data, folder, report=lambda step: seen.append(step.losses), **options)
    return seen


def weights(network) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())


def changed(tiny, *, architecture=None, **training):
    return dataclasses.replace(
        tiny,
        training=dataclasses.replace(tiny.training, **training),
        architecture=tiny.architecture.model_copy(update=architecture or {}),
    )


def test_the_seed_decides_the_weights_bit_for_bit(tiny, data, tmp_path) -> None:
    first = weights(run(tiny, data, tmp_path / "a"))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the global state must not matter)
    assert weights(run(tiny, data, tmp_path / "b")) == first
    assert weights(run(tiny, data, tmp_path / "c", seed=1)) != first


@pytest.mark.parametrize("last_step", [1, 2, 3, 5, 6])
def test_a_run_killed_at_any_step_goes_on_with_the_same_losses_to_the_same_weights(
    tiny, data, tmp_path, last_step
) -> None:
    def die(step: Step) -> None:
        if step.number == last_step:
            raise Killed

    with pytest.raises(Killed):
        run(tiny, data, tmp_path / "killed", report=die)
    whole: list[float] = []
    expected = run(
        tiny, data, tmp_path / "whole", every=100, report=lambda step: whole.append(step.loss)
    )
    rest: list[tuple[int, float]] = []
    resumed = run(
        tiny, data, tmp_path / "killed", report=lambda step: rest.append((step.number, step.loss))
    )
    saved = (last_step - 1) // 2 * 2
    assert rest == list(enumerate(whole, start=1))[saved:]
    assert weights(resumed) == weights(expected)


def test_a_finished_run_is_not_trained_again(tiny, data, tmp_path) -> None:
    first = weights(run(tiny, data, tmp_path / "state"))
    steps: list[Step] = []
    again = run(tiny, data, tmp_path / "state", report=steps.append)
    assert steps == []
    assert weights(again) == first


def test_training_lowers_the_loss(tiny, data, tmp_path) -> None:
    longer = changed(tiny, steps=150, batch_size=32)
    losses = [parts["loss"] for parts in losses_of(longer, data, tmp_path / "state", every=1000)]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:10])


def test_the_report_sees_the_averaged_network(tiny, data, tmp_path) -> None:
    biases: list[torch.Tensor] = []
    network = run(
        tiny,
        data,
        tmp_path / "state",
        report=lambda step: biases.append(step.averaged.final_layer.linear.bias.clone()),
    )
    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(biases[-1], network.final_layer.linear.bias)
    assert not network.training


def test_sit_learns_from_class_ids(tiny, data, tmp_path) -> None:
    labels = Examples(data.latents, torch.arange(40) % 4)
    label = changed(
        tiny,
        architecture={"condition": LabelCondition(num_classes=4), "learn_sigma": True},
        steps=60,
        label_dropout=0.5,
        snippet_noise=0.0,
        average=ConstantAverage(0.9),
    )
    network = run(label, labels, tmp_path / "state", process=Transport())
    table = network.y_embedder.embedding_table.weight
    fresh = run(changed(label, steps=1), labels, tmp_path / "fresh", process=Transport())
    moved = (table - fresh.y_embedder.embedding_table.weight).abs().amax(dim=1)
    assert (moved > 1e-3).all(), "every class and the line of no class"


def test_repa_aligns_tokens_with_the_features_of_an_encoder(tiny, data, tmp_path) -> None:
    random = torch.Generator().manual_seed(1)
    aligned = dataclasses.replace(
        data, features=(torch.randn(40, 4, 12, generator=random),
                        torch.randn(40, 1, 6, generator=random)),
    )  # fmt: skip
    repa = changed(
        tiny,
        architecture={
            "projector_outputs": (12, 6), "projector_dimension": 8, "encoder_depth": 1
        },
        steps=120,
        projection_weight=0.5,
    )  # fmt: skip
    parts = losses_of(repa, aligned, tmp_path / "state", every=1000)
    projections = [losses["projection"] for losses in parts]
    assert np.mean(projections[-10:]) < np.mean(projections[:10]) - 0.1
    for losses in parts[:3]:
        total = losses["denoising"] + 0.5 * losses["projection"]
        assert losses["loss"] == pytest.approx(total, rel=1e-6)


def test_gmem_v2_learns_with_its_own_losses(tmp_path, data) -> None:
    from gmem_shared.model_config import LightningDiTArchitecture, SnippetCondition

    architecture = LightningDiTArchitecture(
        input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=2, num_heads=2,
        condition=SnippetCondition(dimension=64), projector_outputs=(6,), projector_dimension=8,
        encoder_depth=1,
    )  # fmt: skip
    recipe = TrainingRecipe(
        steps=4, batch_size=8, times="lognormal", cosine_weight=1.0, projection_weight=0.5,
        snippet_dropout=True, betas=(0.9, 0.95), max_gradient_norm=1.0,
    )  # fmt: skip
    examples = dataclasses.replace(data, features=(torch.ones(40, 1, 6),))
    seen: list[Step] = []
    train(
        recipe, architecture, Transport(), examples,
        seed=0, checkpoint=tmp_path / "state", checkpoint_every=10, report=seen.append,
    )  # fmt: skip
    for step in seen:
        parts = step.losses
        total = parts["denoising"] + parts["cosine"] + 0.5 * parts["projection"]
        assert parts["loss"] == pytest.approx(total, rel=1e-6)
        assert 0 < parts["cosine"] < 2


def test_bfloat16_arithmetic_comes_close_to_float32(tiny, data, tmp_path) -> None:
    coarse = changed(tiny, precision="bfloat16")
    full = losses_of(tiny, data, tmp_path / "full")
    rough = losses_of(coarse, data, tmp_path / "rough")
    assert [p["loss"] for p in rough] == pytest.approx([p["loss"] for p in full], rel=0.05)
    assert rough != full


def test_projectors_are_left_alone_by_a_recipe_that_does_not_use_them(tiny, data, tmp_path) -> None:
    unused = changed(
        tiny, architecture={"projector_outputs": (4,), "encoder_depth": 1}, weight_decay=0.5
    )
    once = run(changed(unused, steps=1), data, tmp_path / "once")
    more = run(unused, data, tmp_path / "more")
    for before, after in zip(once.projectors.parameters(), more.projectors.parameters(),
                             strict=True):  # fmt: skip
        assert torch.equal(before, after)


def test_aligning_what_has_no_projector_is_refused(tiny, data, tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="projector_outputs"):
        run(changed(tiny, projection_weight=0.5), data, tmp_path / "state")


def test_a_batch_that_the_processes_cannot_share_is_refused(tiny, data, tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="divisible by the 3 processes, found 16"):
        train(
            tiny.training, tiny.architecture, Interpolant(), data,
            seed=0, checkpoint=tmp_path / "state", checkpoint_every=1, report=ignore,
            world=World(0, 3, torch.device("cpu")),
        )  # fmt: skip
