import numpy as np
import pytest
import torch

from gmem_model.snippet_selection import select_rows
from gmem_shared.bank_format import open_bank, tombstone
from gmem_shared.draw import draw_rows
from gmem_shared.errors import UnknownClassError
from gmem_shared.model_config import LabelCondition, ModelConfig, NoCondition
from gmem_shared.types import DrawSpec
from gmem_trainer.sampling.conditions import chooser
from gmem_trainer.sampling.job import Job
from tests.support.models import tiny_config
from tests.unit.trainer.sampling.conftest import publish_bank

INDICES = np.arange(100, 400)
LATENTS = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def job(**changes) -> Job:
    values = {"model": "m@sha256-0", "num_images": 10, "seed": 7, "sampler": "ab2"}
    return Job(**(values | {"num_steps": 8, "batch_size": 4} | changes))


def config_of(condition) -> ModelConfig:
    """A configuration of which only the condition matters."""
    config = tiny_config()
    architecture = config.architecture.model_copy(update={"condition": condition})
    return config.model_copy(update={"architecture": architecture})


def test_drawn_rows_are_those_a_service_draws(bank) -> None:
    found = chooser(job(snippets="drawn"), tiny_config(), bank)(INDICES, LATENTS)
    assert np.array_equal(found.rows, draw_rows(bank, [DrawSpec(300, 7, None, 100)]))
    assert np.array_equal(found.labels, bank.labels[found.rows])
    assert np.array_equal(found.values.numpy(), bank.vectors[found.rows].astype(np.float32))


def test_drawn_rows_can_be_restricted_to_classes(bank) -> None:
    choose = chooser(job(snippets="drawn", classes=(0, 1)), tiny_config(), bank)
    assert set(choose(INDICES, LATENTS).labels) == {0, 1}


def test_balanced_draws_take_the_classes_in_turn(bank) -> None:
    choose = chooser(job(snippets="drawn", balanced=True), tiny_config(), bank)
    found = choose(INDICES, LATENTS)
    assert np.array_equal(found.labels, INDICES % 3)
    assert len(set(found.rows[found.labels == 2])) > 1


def test_classes_without_rows_take_no_turn(store) -> None:
    repository = store.repository("banks", "tiny")
    version = tombstone(repository, repository.latest(), rows=[5])  # all of class 1
    emptied = open_bank(repository.open(version))
    found = chooser(job(snippets="drawn", balanced=True), tiny_config(), emptied)(INDICES, LATENTS)
    assert set(found.labels) == {0, 2}


def test_noise_chooses_the_published_row_of_the_original_order(store) -> None:
    frequencies = np.random.default_rng(0).permutation(14)  # of the original rows; one has 0
    original_of_row = np.random.default_rng(1).permutation(14)
    publish_bank(store, source_ids=original_of_row, weights=frequencies[original_of_row])
    repository = store.repository("banks", "tiny")
    bank = open_bank(repository.open(repository.latest()))
    found = chooser(job(snippets="by-noise"), tiny_config(), bank)(INDICES, LATENTS)
    chosen = bank.source_ids[found.rows]
    assert np.array_equal(chosen, select_rows(LATENTS, frequencies).rows.numpy())
    assert np.array_equal(found.values.numpy(), bank.vectors[found.rows])
    assert len(set(chosen)) == 13


def test_labels_are_uniform_over_the_classes(bank) -> None:
    choose = chooser(job(), config_of(LabelCondition(num_classes=4)), None)
    found = choose(np.arange(4000), LATENTS)
    assert found.values.dtype == torch.int64
    assert np.array_equal(found.values.numpy(), found.labels)
    assert np.bincount(found.labels) == pytest.approx(1000, abs=120)
    assert set(found.rows) == {-1}


def test_labels_are_a_function_of_the_image_number() -> None:
    choose = chooser(job(), config_of(LabelCondition(num_classes=1000)), None)
    whole = choose(INDICES, LATENTS)
    assert np.array_equal(choose(INDICES[50:60], LATENTS).labels, whole.labels[50:60])


def test_labels_can_be_chosen_and_balanced() -> None:
    config = config_of(LabelCondition(num_classes=1000))
    some = chooser(job(classes=(207, 360)), config, None)(INDICES, LATENTS)
    assert set(some.labels) == {207, 360}
    turns = chooser(job(classes=(207, 360), balanced=True), config, None)(INDICES, LATENTS)
    assert turns.labels.tolist() == [207, 360] * 150


def test_unknown_classes_are_refused(bank) -> None:
    with pytest.raises(UnknownClassError, match="0 … 9"):
        chooser(job(classes=(10,)), config_of(LabelCondition(num_classes=10)), None)
    with pytest.raises(UnknownClassError):
        chooser(job(snippets="drawn", classes=(3,)), tiny_config(), bank)


def test_an_unconditional_model_gets_no_class() -> None:
    found = chooser(job(), config_of(NoCondition()), None)(INDICES, LATENTS)
    assert found.values.dtype == torch.int64
    assert set(found.values.tolist()) == {-1}
