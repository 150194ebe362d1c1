import numpy as np
import pytest

from gmem_model import memory
from gmem_model.memory import CompressedBank, FullBank, compress, most_used, nearest, usage
from gmem_shared.errors import OutOfRangeError, UnknownRowError
from gmem_shared.mixing import normalize


@pytest.fixture
def snippets() -> np.ndarray:
    """30 snippets that differ in 4 directions only."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(30, 4)) @ rng.normal(size=(4, 12)) + 1).astype(np.float32)


def test_bank_of_few_directions_is_compressed_without_loss(snippets, monkeypatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_ROWS", 7)
    bank = compress(snippets, 4)
    assert bank.coefficients.shape == (30, 4)
    np.testing.assert_allclose(bank[np.arange(30)], snippets, atol=1e-5)
    np.testing.assert_allclose(bank.encode(snippets), bank.coefficients, atol=1e-4)


def test_compression_is_the_best_of_its_size(snippets) -> None:
    noisy = snippets + np.random.default_rng(1).normal(size=snippets.shape).astype(np.float32)
    centred = noisy - noisy.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    bank = compress(noisy, 5)
    best = (u[:, :5] * s[:5]) @ vt[:5] + noisy.mean(axis=0)
    np.testing.assert_allclose(bank.scales, s[:5], rtol=1e-5)
    np.testing.assert_allclose(bank[np.arange(30)], best, atol=1e-4)


def test_directions_a_bank_lacks_add_nothing(snippets) -> None:
    bank = compress(snippets, 6)
    assert np.isfinite(bank.coefficients).all()
    np.testing.assert_allclose(bank.append(snippets[3]), snippets[3], atol=1e-4)


def test_snippets_that_are_all_alike_compress_to_their_mean() -> None:
    bank = compress(np.full((5, 3), 2, np.float32), 2)
    np.testing.assert_allclose(bank.append(np.ones(3)), [2, 2, 2])


@pytest.mark.parametrize("dimension", [0, 13])
def test_impossible_dimension_is_refused(snippets, dimension) -> None:
    with pytest.raises(OutOfRangeError, match="expected 1 … 12 dimensions"):
        compress(snippets, dimension)


@pytest.mark.parametrize("kind", ["full", "compressed"])
def test_both_kinds_of_bank_interpolate_and_grow_alike(snippets, kind) -> None:
    bank = FullBank(snippets) if kind == "full" else compress(snippets, 4)
    expected = 0.3 * snippets[2] + 0.7 * snippets[5]
    np.testing.assert_allclose(bank.interpolated(2, 5, 0.3), expected, atol=1e-4)
    added = bank.append(expected)
    assert len(bank) == 31
    np.testing.assert_allclose(added, expected, atol=1e-4)
    np.testing.assert_allclose(bank[np.array([30])][0], added, rtol=1e-6)


@pytest.mark.parametrize("row", [-1, 30])
def test_rows_that_do_not_exist_are_refused(snippets, row) -> None:
    banks: list[FullBank | CompressedBank] = [FullBank(snippets), compress(snippets, 4)]
    for bank in banks:
        with pytest.raises(UnknownRowError, match=r"rows 0 … 29"):
            bank[np.array([row])]
        with pytest.raises(UnknownRowError):
            bank.interpolated(row, 0, 0.5)


def test_usage_counts_the_features_nearest_to_each_snippet(monkeypatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_ROWS", 3)
    rng = np.random.default_rng(2)
    features, snippets = rng.normal(size=(50, 6)), rng.normal(size=(8, 6))
    nearest = (normalize(features) @ normalize(snippets).T).argmax(axis=1)
    assert usage(features, snippets).tolist() == np.bincount(nearest, minlength=8).tolist()


def test_nearest_may_leave_a_snippet_out_of_its_own_neighbours(monkeypatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_ROWS", 7)
    snippets = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    assert nearest(snippets, snippets).tolist() == list(range(30))
    similarity = normalize(snippets) @ normalize(snippets).T
    np.fill_diagonal(similarity, -1)
    expected = similarity.argmax(axis=1).tolist()
    assert nearest(snippets, snippets, skip_self=True).tolist() == expected


def test_most_used_snippets_are_found_in_their_order() -> None:
    assert most_used(np.array([3, 0, 5, 3, 1]), 3).tolist() == [0, 2, 3]
