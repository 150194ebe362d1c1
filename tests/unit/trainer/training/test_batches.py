import dataclasses

import pytest
import torch

from gmem_shared.model_config import Interpolant
from gmem_trainer.training.batches import Batches, Examples, blur, drop_labels
from gmem_trainer.training.recipe import TrainingRecipe


@pytest.fixture
def snippets() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(40, 64, generator=random))


@pytest.fixture
def batches(snippets) -> Batches:
    latents = torch.arange(40.0).view(40, 1, 1, 1).expand(40, 2, 4, 4)
    features = (torch.arange(40.0).view(40, 1, 1).expand(40, 3, 5),)
    recipe = TrainingRecipe(steps=10, batch_size=12, snippet_noise=0.5, snippet_dropout=True)
    return Batches(
        Examples(latents, snippets, features), recipe, Interpolant(), seed=3,
        keep_mask=lambda n, random: torch.rand(n, 7, generator=random),
    )  # fmt: skip


def tensors(batch) -> list[torch.Tensor]:
    return [batch.latents, batch.noise, batch.times, batch.conditions, batch.keep, *batch.features]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_parts_of_all_processes_make_up_the_batch_of_one(batches, processes) -> None:
    whole = batches.draw(5)
    parts = [
        dataclasses.replace(batches, rank=rank, processes=processes).draw(5)
        for rank in range(processes)
    ]
    for expected, *found in zip(tensors(whole), *map(tensors, parts), strict=True):
        assert torch.equal(torch.cat(found), expected)


def test_a_batch_depends_on_seed_and_step_alone(batches) -> None:
    first = batches.draw(2)
    batches.draw(3)
    assert torch.equal(batches.draw(2).noise, first.noise)
    assert not torch.equal(batches.draw(3).noise, first.noise)
    assert not torch.equal(dataclasses.replace(batches, seed=4).draw(2).noise, first.noise)


@pytest.mark.parametrize("step", [1, 7, 10, 11])
def test_batches_follow_each_other_to_the_last_step(batches, step) -> None:
    found = list(batches.from_step(step))
    assert len(found) == 11 - step
    for number, batch in enumerate(found, start=step):
        assert torch.equal(batch.noise, batches.draw(number).noise)


def test_an_example_keeps_latent_and_features_together(batches) -> None:
    batch = batches.draw(1)
    assert torch.equal(batch.latents[:, 0, 0, 0], batch.features[0][:, 0, 0])


def test_labels_are_dropped_at_the_recipes_rate() -> None:
    examples = Examples(torch.zeros(4, 1, 2, 2), torch.arange(4))
    recipe = TrainingRecipe(steps=1, batch_size=4000, label_dropout=0.1)
    conditions = Batches(examples, recipe, Interpolant(), seed=0).draw(1).conditions
    assert conditions.dtype == torch.int64
    assert (conditions == -1).float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert set(conditions.tolist()) == {-1, 0, 1, 2, 3}


def test_dropped_labels_mean_no_class() -> None:
    dropped = drop_labels(torch.tensor([3, 1, 2]), torch.tensor([False, True, False]))
    assert dropped.tolist() == [3, -1, 2]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_blurred_snippets_keep_unit_length_and_lose_direction_with_the_noise(
    snippets, noise
) -> None:
    random = torch.Generator().manual_seed(1)
    blurred = blur(snippets, noise * torch.randn(snippets.shape, generator=random))
    assert torch.allclose(blurred.norm(dim=1), torch.ones(40))
    # signal 1, noise 0.5 per entry: cosine 1 / sqrt(1 + 0.25)
    similarity = (blurred * snippets).sum(dim=1).mean().item()
    assert similarity == pytest.approx((1 + noise**2) ** -0.5, abs=0.02)
