from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gmem_bank.cli import app
from gmem_shared.errors import GmemError, InvalidRequestError, OutOfRangeError
from gmem_shared.store import Store
from tests.support import banks


@pytest.fixture(autouse=True)
def environment(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMEM_STORE__URL", str(tmp_path / "store"))
    monkeypatch.setenv("GMEM_STORE__CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("gmem_shared.logs.configure", lambda settings: None)  # is process-wide


def run(*arguments: str) -> str:
    with capture_logs():  # their times would differ between two runs of one command
        result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, GmemError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_bank_is_built_from_features_described_and_drawn(store: Store, tmp_path: Path) -> None:
    save_file(banks.features(), tmp_path / "features.safetensors")
    classes = [{"id": i, "name": f"number {i}", "aliases": [f"n{i}"]} for i in range(4)]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    output = run(
        "build", "digits", str(tmp_path / "features.safetensors"), "--encoder", "e",
        "--classes", str(tmp_path / "classes.json"), "--alias", "production",
    )  # fmt: skip
    assert "published digits@1 sha256-" in output
    assert "number 2" in run("describe", "digits")
    assert "production=1" in run("list")
    drawn = run("draw", "digits", "--seed", "7", "--count", "3", "--label", "2")
    assert drawn == run("draw", "digits@1", "--seed", "7", "--count", "3", "--label", "2")
    assert "1.0000" in run("search", "digits", "5", "--count", "2")


def test_vectors_alone_make_a_bank_without_labels(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.ones((3, 2), np.float32))
    run("build", "plain", str(tmp_path / "vectors.npy"), "--encoder", "e")
    assert store.repository("banks", "plain").latest().manifest.metadata["rows"] == 3


def test_labels_come_from_a_file_of_their_own(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.ones((3, 2), np.float32))
    np.save(tmp_path / "labels.npy", np.array([4, 4, -1]))
    run(
        "build", "plain", str(tmp_path / "vectors.npy"), "--encoder", "e",
        "--labels", str(tmp_path / "labels.npy"), "--alias", "production",
    )  # fmt: skip
    assert "4" in run("describe", "plain")


def test_tombstone_publishes_a_version_without_the_rows(store: Store) -> None:
    banks.publish(store)
    run("tombstone", "digits", "--row", "3", "--source-id", "8", "--alias", "production")
    repository = store.repository("banks", "digits")
    assert repository.alias("production").seq == 2
    assert repository.latest().manifest.metadata["tombstones"] == 2


def test_index_is_published_with_its_recall(store: Store) -> None:
    banks.publish(store, **banks.features(400))
    run("index", "digits", "--factory", "HNSW16,Flat", "--alias", "production")
    index = store.repository("banks", "digits").latest().manifest.metadata["index"]
    assert index["factory"] == "HNSW16,Flat"
    assert index["recall_at_10"] >= 0.95
    assert "1.0000" in run("search", "digits", "5", "--count", "2")


def test_poor_index_is_not_published(store: Store) -> None:
    banks.publish(store, **banks.features(400))
    with pytest.raises(OutOfRangeError, match=r"recall@10 >= 1.0, measured 0"):
        run("index", "digits", "--factory", "HNSW2,SQ8", "--min-recall", "1")
    assert len(store.repository("banks", "digits").versions()) == 1


@pytest.mark.parametrize("name", ["missing.npy", "text.npy", "text.safetensors", "features.csv"])
def test_unreadable_features_are_refused(tmp_path: Path, name: str) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("no tensors")
    with pytest.raises(InvalidRequestError):
        run("build", "digits", str(tmp_path / name), "--encoder", "e")
