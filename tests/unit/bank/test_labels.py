import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gmem_bank import labels
from gmem_bank.labels import Prototypes, read_index, read_prototypes
from gmem_shared.errors import InvalidRequestError


def clouds(spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """20 features around each of three directions."""
    rng = np.random.default_rng(seed)
    classes = np.repeat([5, 7, 9], 20)
    return np.eye(3, 6)[np.repeat([0, 1, 2], 20)] + rng.normal(0, spread, (60, 6)), classes


@pytest.mark.parametrize("suffix", [".npy", ".json", ".txt", ".csv"])
def test_index_is_read_from_any_of_its_formats(tmp_path: Path, suffix: str) -> None:
    path, wanted = tmp_path / f"index{suffix}", [3, -1, 3]
    if suffix == ".npy":
        np.save(path, np.array(wanted, np.int32))
    elif suffix == ".json":
        path.write_text(json.dumps(wanted))
    elif suffix == ".txt":
        path.write_text("3\n-1\n3\n")
    else:
        path.write_text("file,label\na.png,3\nb.png,-1\nc.png,3\n")
    assert read_index(path, 3).tolist() == wanted


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", "[1, 2]"),
        ("index.json", "[0.5, 1, 2]"),
        ("index.json", "{"),
        ("index.txt", "one two three"),
        ("index.csv", "class\n1\n2\n3\n"),
        ("index.npy", "nonsense"),
        ("index.pkl", "nonsense"),
    ],
)
def test_index_that_is_no_list_of_class_ids_is_refused(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequestError, match="one class id for each of 3 rows"):
        read_index(tmp_path / name, 3)


def test_prototypes_label_by_the_nearest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "BLOCK_ROWS", 7)
    prototypes = Prototypes.of(*clouds(0.1))
    vectors, classes = clouds(0.1, seed=1)
    found, margins = prototypes.label(vectors)
    assert found.tolist() == classes.tolist()
    assert prototypes.agreement == 1
    assert (margins > 0.2).all()


def test_agreement_falls_when_the_labels_mean_nothing() -> None:
    vectors, classes = clouds(0.1)
    shuffled = np.random.default_rng(2).permutation(classes)
    assert Prototypes.of(vectors, shuffled).agreement < 0.6


def test_agreement_leaves_the_judged_feature_out() -> None:
    # Each class has two features at right angles: the other one says nothing about it.
    prototypes = Prototypes.of(np.eye(4), np.array([0, 0, 1, 1]))
    assert prototypes.judged == 4
    assert prototypes.agreement <= 0.5


def test_feature_alone_in_its_class_is_not_judged() -> None:
    assert Prototypes.of(np.eye(3), np.array([0, 1, 1])).judged == 2


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_prototypes_come_from_a_labelled_feature_set(tmp_path: Path, suffix: str) -> None:
    vectors, classes = clouds(0.1)
    path = tmp_path / f"features{suffix}"
    if suffix == ".npz":
        np.savez(path, vectors=vectors, labels=classes)
    else:
        save_file({"vectors": vectors, "labels": classes}, path)
    assert read_prototypes([path], 6).classes.tolist() == [5, 7, 9]
    with pytest.raises(InvalidRequestError, match=re.escape("`vectors` (n, 8)")):
        read_prototypes([path], 8)


def test_shards_of_prepared_images_are_a_labelled_feature_set(tmp_path: Path) -> None:
    vectors, classes = clouds(0.1)
    classes[:5] = -1  # not labelled
    paths = [tmp_path / f"shard{number}.safetensors" for number in range(2)]
    for number, path in enumerate(paths):
        part = slice(30 * number, 30 * number + 30)
        shard = {"cls_tokens": vectors[part], "labels": classes[part]}
        save_file(shard | {"latents": np.zeros((30, 4, 2, 2))}, path)
    prototypes = read_prototypes(paths, 6)
    assert prototypes.judged == 55
    assert prototypes.classes.tolist() == [5, 7, 9]


def test_feature_set_needs_a_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "features.npz", vectors=np.ones((2, 6)), labels=[-1, -1])
    with pytest.raises(InvalidRequestError, match="expected labelled features"):
        read_prototypes([tmp_path / "features.npz"], 6)


@pytest.mark.parametrize("content", [{"vectors": np.ones((2, 6))}, {"labels": np.ones(2, int)}])
def test_feature_set_without_labels_is_refused(tmp_path: Path, content: dict) -> None:
    np.savez(tmp_path / "features.npz", **content)
    with pytest.raises(InvalidRequestError, match="expected `vectors`"):
        read_prototypes([tmp_path / "features.npz"], 6)
