import dataclasses

import numpy as np
import pytest

from gmem_shared.bank_format import open_bank
from gmem_trainer.banks import FULL, remember
from gmem_trainer.codec import Codec
from gmem_trainer.data import digits
from gmem_trainer.material import Material
from gmem_trainer.preparation.shards import LATENTS, SNIPPETS, Prepared, ShardRows
from gmem_trainer.publishing import publish_bank


@pytest.fixture
def material() -> Material:
    dataset = digits(0)
    values = np.random.default_rng(0).normal(size=(1257, 8)).astype(np.float32)
    snippets = values / np.linalg.norm(values, axis=1, keepdims=True)
    train = dataset.train
    tensors = {SNIPPETS: ShardRows((snippets,)), LATENTS: ShardRows((train.pixels,))}
    prepared = Prepared(tensors, train.labels, train.source_ids)
    codec = Codec.open("pixels", None)
    return Material(
        "digits", dataset.classes, prepared, codec, codec.space(), "encoder", None, True, dataset
    )


def publish(store, material: Material):
    memory = remember(FULL, material.prepared.tensors[SNIPPETS], 1257)
    return publish_bank(store.repository("banks", "digits"), material, memory)


def test_the_same_bank_is_published_once(store, material) -> None:
    versions = [publish(store, material) for _ in range(2)]
    assert versions[0].ref == versions[1].ref


def test_another_encoder_makes_another_bank(store, material) -> None:
    first = publish(store, material)
    second = publish(store, dataclasses.replace(material, encoder_id="another"))
    assert (first.seq, second.seq) == (1, 2)


def test_each_snippet_stays_with_its_image(store, material) -> None:
    bank = open_bank(store.repository("banks", "digits").open(publish(store, material)))
    assert bank.vectors.dtype == np.float16
    ids = material.prepared.source_ids
    row = int(np.flatnonzero(bank.source_ids == ids[40])[0])
    snippets = material.prepared.tensors[SNIPPETS][np.array([40])]
    assert np.allclose(bank.vectors[row], snippets[0], atol=1e-3)
