import numpy as np
import pytest
import torch

from gmem_model.decoding import Decoder
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import plan
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank, write_bank
from gmem_shared.errors import NotReadyError
from gmem_shared.types import ClassInfo
from gmem_trainer.generation import BatchSampler, draw_rows, generate, grid
from tests.support.models import tiny_config, tiny_network


@pytest.fixture
def bank(store, tmp_path) -> BankData:
    labels = np.repeat([0, 1, 2], [5, 1, 8]).astype(np.int32)
    files, metadata = write_bank(
        tmp_path,
        vectors=np.random.default_rng(0).normal(size=(14, 64)).astype(np.float32),
        labels=labels,
        source_ids=np.arange(14),
        classes=[ClassInfo(i, f"class {i}") for i in range(3)],
        encoder="test",
    )
    repository = store.repository("banks", "tiny")
    return open_bank(repository.open(repository.publish(files, metadata=metadata)))


def test_rows_are_drawn_from_the_class_asked_for_and_reach_all_of_it(bank) -> None:
    labels = np.repeat([2, 0, 1], 200).astype(np.int32)
    rows = draw_rows(bank, labels, seed=0)
    assert np.array_equal(bank.labels[rows], labels)
    assert set(rows) == set(range(14))


def test_rows_are_drawn_by_weight_and_without_a_class_from_all(store, tmp_path) -> None:
    (tmp_path / "bank").mkdir()
    files, metadata = write_bank(
        tmp_path / "bank",
        vectors=np.ones((4, 2), np.float32),
        labels=np.array([0, 0, 1, 1], np.int32),
        source_ids=np.arange(4),
        classes=[ClassInfo(i, f"class {i}") for i in range(2)],
        encoder="test",
        weights=np.array([1, 3, 0, 4]),
    )
    repository = store.repository("banks", "weighted")
    bank = open_bank(repository.open(repository.publish(files, metadata=metadata)))
    shares = np.bincount(draw_rows(bank, np.zeros(4000, np.int32), seed=0)) / 4000
    assert shares == pytest.approx([0.25, 0.75], abs=0.03)
    shares = np.bincount(draw_rows(bank, np.full(4000, -1, np.int32), seed=0)) / 4000
    assert shares == pytest.approx([0.125, 0.375, 0, 0.5], abs=0.03)


def test_an_image_depends_on_its_snippet_and_seed_only() -> None:
    config = tiny_config()
    network = tiny_network(config)
    snippets = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    together = generate(network, config, snippets, seed=7)
    assert together.shape == (6, 8, 8, 1)
    assert np.array_equal(generate(network, config, snippets[:4], seed=7), together[:4])
    assert not np.array_equal(generate(network, config, snippets, seed=8), together)


def test_an_image_that_is_no_number_is_named() -> None:
    config = tiny_config()
    sampler = plan(config.default_sampler, config.default_steps, config.process)
    sample = BatchSampler(
        GuidedNetwork(tiny_network(config)), Decoder(config.latent_space), sampler
    )  # fmt: skip
    snippets = torch.ones(3, 64)
    snippets[1] = float("nan")
    with pytest.raises(NotReadyError, match="image 11"):
        sample(snippets, 0, np.arange(10, 13))


def test_the_grid_shows_every_picture_in_reading_order() -> None:
    pictures = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(2, 1).repeat(2, 2)
    canvas = np.asarray(grid(pictures, columns=3, zoom=2, gap=1))
    assert canvas.shape == (11, 16)
    assert canvas[1::5, 1::5].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (canvas[0] == 255).all()


def test_colour_pictures_stay_in_colour() -> None:
    assert grid(np.zeros((2, 4, 4, 3), np.uint8), columns=2).mode == "RGB"
