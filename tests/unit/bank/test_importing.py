"""Banks in the layouts of GMem, through the command line into the store."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gmem_bank.cli import app
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import COEFFICIENTS, open_bank
from gmem_shared.errors import GmemError, InvalidRequestError
from gmem_shared.store import Store
from gmem_shared.tensor_file import map_tensors
from tests.support.canary import Canary

ROWS, WIDTH = 12, 16


@pytest.fixture(autouse=True)
def environment(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMEM_STORE__URL", str(tmp_path / "store"))
    monkeypatch.setenv("GMEM_STORE__CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("gmem_shared.logs.configure", lambda settings: None)  # is process-wide


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))


def import_bank(store: Store, path: Path, *options: str) -> tuple[BankData, str]:
    """Import a bank in full precision and open it."""
    command = ["import", str(path), "--name", "gmem", "--encoder", "e", "--dtype", "float32"]
    with capture_logs():
        result = CliRunner().invoke(app, [*command, *options])
    if isinstance(result.exception, GmemError):
        raise result.exception
    assert result.exit_code == 0, result.output
    repository = store.repository("banks", "gmem")
    return open_bank(repository.open(repository.latest())), result.stdout


def test_first_release_is_a_matrix_and_its_frequencies(
    store: Store, tmp_path: Path, vectors: torch.Tensor
) -> None:
    folder = tmp_path / "pth-files"  # only the suffix tells the sibling
    folder.mkdir()
    torch.save(vectors, folder / "bank.pth")
    torch.save([0, *range(ROWS - 1)], folder / "bank.freq")
    data, output = import_bank(store, folder / "bank.pth")
    np.testing.assert_array_equal(data.vectors, vectors)
    assert data.weights.tolist() == [0, *range(ROWS - 1)]
    assert data.source_ids.tolist() == list(range(ROWS))
    assert "12 rows of 16, layout gmem-v1" in output


@pytest.mark.parametrize("counts", [list, tuple, np.array, torch.tensor])
def test_one_file_keeps_its_bank_whatever_counts_are_saved_as(
    store: Store, tmp_path: Path, vectors: torch.Tensor, counts: Any
) -> None:
    frequencies = counts(range(1, ROWS + 1))
    content = {"network": {}, "memorybank": vectors, "memoryfreq": frequencies}
    torch.save(content, tmp_path / "gmem.pth")
    data, _ = import_bank(store, tmp_path / "gmem.pth")
    np.testing.assert_array_equal(data.vectors, vectors)
    assert data.weights.tolist() == list(range(1, ROWS + 1))


@pytest.mark.parametrize("zipped", [True, False])
def test_full_bank_may_be_a_view_in_either_layout_of_torch(
    store: Store, tmp_path: Path, vectors: torch.Tensor, zipped: bool
) -> None:
    path = tmp_path / "bank.pth"
    torch.save(vectors[2:], path, _use_new_zipfile_serialization=zipped)
    data, output = import_bank(store, path)
    np.testing.assert_array_equal(data.vectors, vectors[2:])
    assert "layout full" in output


def test_columns_may_lie_one_after_the_other(
    store: Store, tmp_path: Path, vectors: torch.Tensor
) -> None:
    torch.save(vectors.T.contiguous().T, tmp_path / "bank.pth")
    np.testing.assert_array_equal(import_bank(store, tmp_path / "bank.pth")[0].vectors, vectors)


def test_compressed_bank_is_decoded_and_keeps_its_factors(
    store: Store, tmp_path: Path, vectors: torch.Tensor
) -> None:
    mean = vectors.mean(dim=0)
    u, s, v = torch.linalg.svd(vectors - mean, full_matrices=False)
    k = 3
    factors = {"C": u[:, :k] * s[:k].sqrt(), "M": v[:k].T * s[:k].sqrt(), "S": s[:k], "mean": mean}
    factors["C"] = factors["C"].T.contiguous().T  # as the original saves it
    torch.save(factors | {"latent_dim": k, "feature_dim": WIDTH}, tmp_path / "bank.pth")
    torch.save(np.arange(ROWS) % 2, tmp_path / "labels.pt")
    np.save(tmp_path / "labels.npy", np.arange(ROWS) % 2)
    data, output = import_bank(
        store, tmp_path / "bank.pth", "--index", str(tmp_path / "labels.npy")
    )
    order = [*range(0, ROWS, 2), *range(1, ROWS, 2)]
    expected = (factors["C"] @ factors["M"].T + mean)[order]
    np.testing.assert_allclose(data.vectors, expected, atol=1e-5)
    repository = store.repository("banks", "gmem")
    kept = map_tensors(repository.open(repository.latest()).path(COEFFICIENTS))
    np.testing.assert_array_equal(kept["coefficients"], factors["C"][order])
    np.testing.assert_array_equal(kept["scales"], s[:k])
    assert "layout dmd" in output
    assert "labels from: index" in output


def test_plain_matrix_of_numpy_is_a_bank(
    store: Store, tmp_path: Path, vectors: torch.Tensor
) -> None:
    np.save(tmp_path / "bank.npy", vectors.numpy())
    np.testing.assert_array_equal(import_bank(store, tmp_path / "bank.npy")[0].vectors, vectors)


def test_labels_by_likeness_are_published_with_their_agreement(
    store: Store, tmp_path: Path, vectors: torch.Tensor
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 3
    features = vectors.numpy() * 0.1 + 4 * np.eye(3, WIDTH)[labels]
    np.save(tmp_path / "bank.npy", features.astype(np.float32))
    known = np.repeat(np.arange(3), 10)
    directions = np.eye(3, WIDTH)[known] + rng.normal(0, 0.05, (30, WIDTH))
    np.savez(tmp_path / "known.npz", vectors=directions, labels=known)
    data, output = import_bank(
        store, tmp_path / "bank.npy", "--prototypes", str(tmp_path / "known.npz")
    )
    assert data.labels.tolist() == sorted(labels.tolist())
    assert data.source_ids.tolist() == [*range(0, 12, 3), *range(1, 12, 3), *range(2, 12, 3)]
    assert "labels leave out agreement: 1.0" in output
    origin = store.repository("banks", "gmem").latest().manifest.metadata["origin"]
    assert origin["labels"]["classes"] == 3
    assert origin["labels"]["median_margin"] > 0.5


def test_half_precision_is_the_default_and_says_what_it_costs(
    store: Store, tmp_path: Path, vectors: torch.Tensor
) -> None:
    torch.save(vectors, tmp_path / "bank.pth")
    data, output = import_bank(store, tmp_path / "bank.pth", "--dtype", "float16")
    assert data.vectors.dtype == np.float16
    assert re.search(r"stored as float16, off by 0\.000\d+", output)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"mean": torch.zeros(1), "std": torch.ones(1)}, "the keys mean, std"),
        ([1, 2], "list"),
        (torch.zeros(3, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(3), r"\(3,\)"),
        ({"C": 1, "M": 1, "S": 1, "mean": 1}, "'C'.*a tensor, found int"),
        ({n: torch.zeros(2, 2) for n in ("C", "M", "S", "mean")}, r"found \(2, 2\)"),
        ({"memorybank": torch.ones(2, 2), "memoryfreq": [0.5, 1]}, "one whole number"),
        ({"memorybank": torch.ones(2, 2), "memoryfreq": ["a", "b"]}, "one whole number"),
        ({"memorybank": torch.ones(2, 2), "memoryfreq": [1]}, "weights"),
    ],
)
def test_what_is_no_bank_is_refused_with_what_was_found(
    store: Store, tmp_path: Path, content: object, found: str
) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InvalidRequestError, match=found):
        import_bank(store, tmp_path / "file.pth")
    assert not store.names("banks")


@pytest.mark.parametrize("place", ["matrix", "bank.freq", "one-file", "dmd", "npy", "index", "npz"])
def test_payload_in_any_file_is_refused_unexecuted(
    store: Store, tmp_path: Path, vectors: torch.Tensor, place: str
) -> None:
    canary = tmp_path / "canary"
    payload = Canary(canary)
    bank, options = tmp_path / "bank.pth", []
    torch.save(vectors, bank)
    if place == "matrix":
        torch.save(payload, bank)
    elif place == "bank.freq":
        torch.save([payload], tmp_path / "bank.freq")
    elif place == "one-file":
        torch.save({"network": {}, "memorybank": vectors, "memoryfreq": payload}, bank)
    elif place == "dmd":
        torch.save({"C": vectors, "M": payload, "S": vectors, "mean": vectors}, bank)
    elif place == "npy":
        bank = tmp_path / "bank.npy"
        np.save(bank, np.array([payload], object), allow_pickle=True)
    elif place == "index":
        (tmp_path / "index.npy").write_bytes(pickle.dumps(payload))
        options = ["--index", str(tmp_path / "index.npy")]
    else:
        np.savez(tmp_path / "known.npz", vectors=np.array([payload], object), labels=[0])
        options = ["--prototypes", str(tmp_path / "known.npz")]
    with pytest.raises(InvalidRequestError):
        import_bank(store, bank, *options)
    assert not canary.exists()
    assert not store.names("banks")
