import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gmem_trainer.training import TrainingRecipe, blur, learning_rate, train


class Killed(BaseException):
    """Stands for the moment at which the process dies."""


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 8, 8, generator=random) * 2 - 1
    snippets = torch.nn.functional.normalize(torch.randn(40, 64, generator=random))
    return images, snippets


def run(tiny, data, checkpoint: Path, *, seed=0, every=2, report=lambda step, loss: None):
    return train(
        tiny.training,
        tiny.architecture,
        *data,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=every,
        report=report,
    )


def weights(network) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())


def test_the_seed_decides_the_weights_bit_for_bit(tiny, data, tmp_path) -> None:
    first = weights(run(tiny, data, tmp_path / "a"))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the global state must not matter)
    assert weights(run(tiny, data, tmp_path / "b")) == first
    assert weights(run(tiny, data, tmp_path / "c", seed=1)) != first


@pytest.mark.parametrize("last_step", [1, 2, 3, 5, 6])
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    tiny, data, tmp_path, last_step
) -> None:
    def die(step: int, loss: float) -> None:
        if step == last_step:
            raise Killed

    with pytest.raises(Killed):
        run(tiny, data, tmp_path / "killed", report=die)
    steps: list[int] = []
    resumed = run(tiny, data, tmp_path / "killed", report=lambda step, loss: steps.append(step))
    saved = (last_step - 1) // 2 * 2
    assert steps == list(range(saved + 1, 7))
    assert weights(resumed) == weights(run(tiny, data, tmp_path / "whole", every=100))


def test_a_finished_run_is_not_trained_again(tiny, data, tmp_path) -> None:
    first = weights(run(tiny, data, tmp_path / "state"))
    steps: list[int] = []
    again = run(tiny, data, tmp_path / "state", report=lambda step, loss: steps.append(step))
    assert steps == []
    assert weights(again) == first


def test_training_lowers_the_loss(tiny, data, tmp_path) -> None:
    longer = dataclasses.replace(
        tiny, training=dataclasses.replace(tiny.training, steps=150, batch_size=32)
    )
    losses: list[float] = []
    run(longer, data, tmp_path / "state", every=1000, report=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:10])


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    recipe = TrainingRecipe(steps=100, learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 30, 50)] == [0.1, 0.5, 1, 1, 1]
    assert learning_rate(recipe, 75) == pytest.approx(0.5)
    assert learning_rate(recipe, 99) == pytest.approx(0.02)


def test_blurred_snippets_keep_unit_length_and_lose_direction_with_the_noise(data) -> None:
    snippets = data[1]

    def similarity(noise: float) -> float:
        blurred = blur(snippets, noise, torch.Generator().manual_seed(0))
        assert torch.allclose(blurred.norm(dim=1), torch.ones(40))
        return (blurred * snippets).sum(dim=1).mean().item()

    assert similarity(0.0) == pytest.approx(1, abs=1e-6)
    # signal 1, noise 0.5 per entry: cosine 1 / sqrt(1 + 0.25)
    assert similarity(0.5) == pytest.approx(1.25**-0.5, abs=0.02)
