import numpy as np
import pytest

from gmem_shared.errors import InvalidRequestError, OutOfRangeError
from gmem_shared.mixing import normalize
from gmem_trainer.banks import FULL, BankForm, remember

IMAGES = 40


@pytest.fixture
def snippets() -> np.ndarray:
    """Of 40 images and, close to each, of its mirror image."""
    random = np.random.default_rng(0)
    own = random.normal(size=(IMAGES, 12))
    return normalize(np.concatenate([own, own + 0.05 * random.normal(size=own.shape)]))


@pytest.mark.parametrize("text", ["full", "most-used:640000", "compressed:64"])
def test_a_form_is_written_as_it_is_read(text) -> None:
    assert str(BankForm.parse(text)) == text


@pytest.mark.parametrize("text", ["", "most-used", "most-used:0", "compressed:-1", "dmd:64"])
def test_other_forms_are_refused(text) -> None:
    with pytest.raises(InvalidRequestError, match="most-used:K"):
        BankForm.parse(text)


def test_a_full_bank_keeps_the_images_own_snippets(snippets) -> None:
    memory = remember(FULL, snippets, IMAGES)
    assert memory.vectors.shape == (IMAGES, 12)
    assert np.array_equal(memory.vectors[memory.rows], snippets[:IMAGES])
    assert memory.weights is None
    everything = np.arange(2 * IMAGES)
    assert np.array_equal(memory.recall(everything), snippets)


def test_the_most_used_snippets_stand_for_all_images(snippets) -> None:
    memory = remember(BankForm("most-used", 15), snippets, IMAGES)
    assert len(memory.rows) == 15
    assert memory.weights.sum() == IMAGES
    kept = snippets[memory.rows]
    assert np.array_equal(memory.vectors[np.arange(15)], kept)
    nearest = (snippets @ kept.T).argmax(axis=1)
    assert np.array_equal(memory.recall(np.arange(2 * IMAGES)), kept[nearest])
    assert memory.weights.tolist() == np.bincount(nearest[:IMAGES], minlength=15).tolist()
    similarity = snippets[:IMAGES] @ snippets[:IMAGES].T
    np.fill_diagonal(similarity, -1)
    used = np.bincount(similarity.argmax(axis=1), minlength=IMAGES)
    assert used[memory.rows].min() >= np.delete(used, memory.rows).max()


def test_keeping_all_is_the_full_bank(snippets) -> None:
    memory = remember(BankForm("most-used", IMAGES), snippets, IMAGES)
    assert memory.weights.tolist() == [1] * IMAGES
    own = np.arange(IMAGES)
    assert np.array_equal(memory.recall(own), snippets[:IMAGES])


def test_a_compressed_bank_recalls_what_it_stores(snippets) -> None:
    memory = remember(BankForm("compressed", 5), snippets, IMAGES)
    own = np.arange(IMAGES)
    assert np.allclose(memory.recall(own), memory.vectors[own], atol=1e-5)
    factors = memory.factors
    decoded = factors["coefficients"] @ factors["basis"].T + factors["mean"]
    assert np.allclose(decoded, memory.vectors[own], atol=1e-6)
    assert not np.allclose(memory.recall(own), snippets[:IMAGES], atol=1e-2)
    lossless = remember(BankForm("compressed", 12), snippets, IMAGES)
    everything = np.arange(2 * IMAGES)
    assert np.allclose(lossless.recall(everything), snippets, atol=1e-4)


def test_more_numbers_than_entries_are_refused(snippets) -> None:
    with pytest.raises(OutOfRangeError, match="13"):
        remember(BankForm("compressed", 13), snippets, IMAGES)
