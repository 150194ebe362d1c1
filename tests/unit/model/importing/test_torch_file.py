import argparse
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from gmem_model.importing.layouts import HARMLESS
from gmem_model.importing.torch_file import read_torch_file, state_dict
from gmem_shared.errors import InvalidRequestError
from tests.support.canary import Canary


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_both_layouts(file, zipped) -> None:
    torch.save({"w": torch.arange(3)}, file, _use_new_zipfile_serialization=zipped)
    assert read_torch_file(file)["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("zipped", [True, False])
def test_executes_nothing_and_names_what_it_refuses(file, tmp_path, zipped) -> None:
    canary = tmp_path / "canary"
    torch.save({"w": Canary(canary)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidRequestError, match=r"refused.*'posix\.mkdir'"):
        read_torch_file(file)
    assert not canary.exists()


def test_a_bare_pickle_is_refused_unexecuted(file, tmp_path) -> None:
    canary = tmp_path / "canary"
    file.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(InvalidRequestError, match=r"refused.*'posix\.mkdir'"):
        read_torch_file(file)
    assert not canary.exists()


def test_a_refusal_never_advises_to_trust_the_file(file) -> None:
    torch.save({"w": np.array([{}], object)}, file)
    with pytest.raises(InvalidRequestError, match="refused") as caught:
        read_torch_file(file, allowed=HARMLESS)
    assert "weights_only" not in str(caught.value)


def test_a_class_is_read_only_where_it_is_allowed(file) -> None:
    torch.save({"args": argparse.Namespace(depth=2)}, file)
    with pytest.raises(InvalidRequestError, match=r"argparse\.Namespace"):
        read_torch_file(file)
    assert read_torch_file(file, allowed=[argparse.Namespace])["args"].depth == 2


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 broken"])
def test_something_else_is_refused(file, content) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"written by torch\.save"):
        read_torch_file(file)


def test_a_missing_file_is_said_to_be_missing(file) -> None:
    with pytest.raises(InvalidRequestError, match="check the path"):
        read_torch_file(file)


def test_a_truncated_file_is_refused(file) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(1000)}, buffer)
    file.write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(InvalidRequestError, match="refused"):
        read_torch_file(file)


@pytest.mark.parametrize("values", [[], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2)])
def test_a_state_dict_has_tensors_under_names(values, file) -> None:
    with pytest.raises(InvalidRequestError, match="expected"):
        state_dict(values, file)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 40),
        torch.zeros(4, device="meta"),
        torch.zeros(4).to_sparse(),
    ],
    ids=["larger-than-its-file", "without-values", "sparse"],
)
def test_a_tensor_has_all_its_numbers_in_the_file(tensor, file) -> None:
    torch.save({"a": tensor}, file)
    with pytest.raises(InvalidRequestError, match="'a' in"):
        state_dict(read_torch_file(file), file)
