import dataclasses

import numpy as np
import pytest
import torch

from gmem_model.latents import LatentScaling, latent_space
from gmem_shared.model_config import AutoencoderArchitecture
from gmem_trainer.banks import FULL, remember
from gmem_trainer.codec import Codec
from gmem_trainer.examples import both_sides, examples, on_grid
from gmem_trainer.material import Material
from gmem_trainer.preparation.shards import Prepared, ShardRows

LABELS = np.array([1, 0, 1, 0], np.int32)
IDS = np.array([7, 9, 3, 1])
ORDER = [3, 1, 2, 0]
"""By label, then by source id: as the rows of a bank."""


def rows(*shape: int, start: float = 0.0) -> ShardRows:
    values = np.arange(4, dtype=np.float32).reshape(4, *[1] * len(shape)) + start
    return ShardRows((np.ascontiguousarray(np.broadcast_to(values, (4, *shape))),))


@pytest.fixture
def material() -> Material:
    tensors = {
        "latents": rows(1, 2, 2),
        "cls_tokens": rows(3, start=1),
        "representations": rows(16, 5),
    }
    tensors |= {f"{name}_flip": ShardRows((t.arrays[0] + 100,)) for name, t in tensors.items()}
    codec = Codec.open("pixels", None)
    prepared = Prepared(tensors, LABELS, IDS)
    return Material("four", (), prepared, codec, codec.space(), "encoder", None, True, None)


def without_mirrors(material: Material) -> Material:
    kept = {n: t for n, t in material.prepared.tensors.items() if not n.endswith("_flip")}
    return dataclasses.replace(
        material, prepared=dataclasses.replace(material.prepared, tensors=kept)
    )


def memory_of(material: Material):
    return remember(FULL, material.prepared.tensors["cls_tokens"], 4)


def test_examples_come_in_the_order_of_a_banks_rows(material) -> None:
    plain = without_mirrors(material)
    found = examples(plain, memory_of(plain), None)
    assert len(found) == 4
    everything = torch.arange(4)
    assert found.latents[everything][:, 0, 0, 0].tolist() == ORDER
    assert found.conditions[everything][:, 0].tolist() == [row + 1 for row in ORDER]
    assert found.features == ()


def test_mirrored_images_follow_with_their_own_features(material) -> None:
    memory = remember(FULL, both_sides(material, "cls_tokens"), 4)
    found = examples(material, memory, 16)
    assert len(found) == 8
    rows = torch.tensor([0, 4, 7])
    assert found.latents[rows][:, 0, 0, 0].tolist() == [3, 103, 100]
    assert found.conditions[rows][:, 0].tolist() == [4, 104, 101]
    assert found.features[0][rows][:, 0, 0].tolist() == [3, 103, 100]


def test_a_label_network_is_told_the_class_of_an_image_and_of_its_mirror(material) -> None:
    conditions = examples(material, None, None).conditions[torch.arange(8)]
    assert conditions.dtype == torch.int64
    assert conditions.tolist() == [0, 0, 1, 1] * 2


def test_conditions_are_what_a_float16_bank_gives_back(material) -> None:
    snippets = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    tensors = dict(without_mirrors(material).prepared.tensors) | {
        "cls_tokens": ShardRows((snippets,))
    }
    prepared = dataclasses.replace(material.prepared, tensors=tensors)
    raw = dataclasses.replace(material, prepared=prepared, normalized=False)
    conditions = examples(raw, memory_of(raw), None).conditions[torch.arange(4)]
    stored = snippets[ORDER].astype(np.float16).astype(np.float32)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    assert np.allclose(conditions, unit, atol=1e-6)
    kept = dataclasses.replace(raw, normalized=True)
    assert np.array_equal(
        examples(kept, memory_of(kept), None).conditions[torch.arange(4)].numpy(), stored
    )


def test_latents_are_scaled_as_the_network_samples_them(material) -> None:
    scaling = LatentScaling(torch.full((1, 1, 1, 1), 1.0), torch.full((1, 1, 1, 1), 2.0))
    space = latent_space(
        "va-vae", autoencoder=AutoencoderArchitecture(z_channels=1), scaling=scaling
    )
    scaled = dataclasses.replace(without_mirrors(material), space=space)
    latents = examples(scaled, memory_of(scaled), None).latents[torch.arange(4)]
    assert latents[:, 0, 0, 0].tolist() == [(row - 1) / 2 for row in ORDER]


def test_tokens_of_another_grid_are_averaged_onto_the_networks() -> None:
    tokens = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    assert on_grid(tokens, 4).ravel().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert np.array_equal(on_grid(tokens, 16), tokens)
