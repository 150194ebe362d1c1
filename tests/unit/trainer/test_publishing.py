import numpy as np
import pytest

from gmem_shared.bank_format import open_bank
from gmem_trainer.data import digits
from gmem_trainer.publishing import publish_bank


@pytest.fixture
def snippets() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(1257, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_the_same_bank_is_published_once(store, snippets) -> None:
    repository = store.repository("banks", "digits")
    versions = [publish_bank(repository, digits(0), snippets, "encoder") for _ in range(2)]
    assert versions[0].ref == versions[1].ref


def test_another_encoder_makes_another_bank(store, snippets) -> None:
    repository = store.repository("banks", "digits")
    first = publish_bank(repository, digits(0), snippets, "encoder a")
    second = publish_bank(repository, digits(0), snippets, "encoder b")
    assert (first.seq, second.seq) == (1, 2)


def test_each_snippet_stays_with_its_image(store, snippets) -> None:
    repository, dataset = store.repository("banks", "digits"), digits(0)
    bank = open_bank(repository.open(publish_bank(repository, dataset, snippets, "encoder")))
    assert bank.vectors.dtype == np.float16
    row = int(np.flatnonzero(bank.source_ids == dataset.train.source_ids[40])[0])
    assert np.allclose(bank.vectors[row], snippets[40], atol=1e-3)
