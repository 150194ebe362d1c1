import dataclasses
import math

import numpy as np
import pytest
import torch

from gmem_model.encoders import SnippetEncoder
from gmem_trainer.contrastive import EncoderRecipe, distort, nt_xent, train_encoder
from gmem_trainer.data import digits

STILL = EncoderRecipe("still", max_warp=0, max_shift_pixels=0, max_gain=0, noise=0)


def test_loss_of_indistinguishable_views_is_that_of_guessing() -> None:
    views = torch.ones(8, 3)
    assert nt_xent(views, 0.5).item() == pytest.approx(math.log(7), rel=1e-6)


def test_loss_vanishes_when_each_view_knows_only_its_partner() -> None:
    views = torch.eye(4).repeat(2, 1)
    assert nt_xent(views, 0.01).item() == pytest.approx(0, abs=1e-6)


def test_loss_pulls_partners_together_not_neighbours_in_the_batch() -> None:
    apart = torch.eye(4).repeat_interleave(2, dim=0)
    together = torch.eye(4).repeat(2, 1)
    assert nt_xent(apart, 0.1) > nt_xent(together, 0.1)


def test_no_distortion_leaves_images_alone() -> None:
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    assert torch.allclose(distort(images, STILL, torch.Generator()), images, atol=1e-5)


def test_shifting_brings_in_background() -> None:
    recipe = dataclasses.replace(STILL, max_shift_pixels=8.0)
    moved = distort(torch.ones(64, 1, 8, 8), recipe, torch.Generator().manual_seed(0))
    assert moved.min().item() == pytest.approx(-1)
    assert moved.max() <= 1 + 1e-6


def test_each_image_is_distorted_in_its_own_way() -> None:
    images = digits(0).train.pixels[:1].repeat(4, axis=0)
    recipe = dataclasses.replace(STILL, max_warp=0.3)
    views = distort(torch.from_numpy(images), recipe, torch.Generator().manual_seed(0))
    assert len(torch.unique(views.flatten(1), dim=0)) == 4


def test_neighbours_in_snippet_space_share_their_class_though_no_label_was_seen() -> None:
    train = digits(0).train
    recipe = EncoderRecipe("short", width=8, steps=20, batch_size=128)
    encoder = SnippetEncoder.of(train_encoder(train.pixels, recipe, seed=0), recipe.name)
    snippets = encoder.embed(torch.from_numpy(train.pixels)).numpy()
    similarity = snippets @ snippets.T
    np.fill_diagonal(similarity, -1)
    agreement = (train.labels[similarity.argmax(axis=1)] == train.labels).mean()
    assert agreement > 0.85


def test_the_seed_decides_the_weights() -> None:
    pixels = digits(0).train.pixels[:64]
    recipe = EncoderRecipe("tiny", width=4, dimension=8, steps=3, batch_size=32)

    def identity(seed: int) -> str:
        return SnippetEncoder.of(train_encoder(pixels, recipe, seed), recipe.name).id

    torch.manual_seed(123)
    first = identity(0)
    torch.manual_seed(456)
    assert identity(0) == first
    assert identity(1) != first
