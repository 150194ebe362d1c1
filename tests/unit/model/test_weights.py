import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gmem_model.weights import WeightsFile, assign, differences, without_weights
from gmem_shared.errors import CorruptVersionError, InvalidRequestError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "layer.safetensors"
    save_file({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, path)
    return path


def test_file_is_a_mapping_of_its_tensors(path) -> None:
    weights = WeightsFile(path)
    assert list(weights) == ["bias", "weight"]
    assert len(weights) == 2
    assert torch.equal(weights["weight"], torch.ones(3, 2))
    assert "gain" not in weights
    with pytest.raises(KeyError, match="gain"):
        weights["gain"]


def test_file_that_does_not_open_is_corrupt(path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptVersionError, match=r"layer\.safetensors"):
        WeightsFile(path)


@torch.no_grad()
def test_assigned_weights_are_copies_in_float32(path) -> None:
    with without_weights():
        layer = nn.Linear(2, 3)
    source = {name: value.double() for name, value in WeightsFile(path).items()}
    assign(layer, source, path.name)
    source["weight"].zero_()
    assert layer(torch.ones(1, 2)).tolist() == [[2, 2, 2]]
    assert layer.weight.dtype == torch.float32
    assert not layer.training


def test_default_stands_in_only_for_what_is_missing(path) -> None:
    layer = nn.Linear(2, 3)
    defaults = {"weight": torch.full((3, 2), 5.0), "bias": torch.full((3,), 7.0)}
    assign(layer, {"weight": torch.ones(3, 2)}, path.name, defaults=defaults)
    assert layer.weight.unique().tolist() == [1]
    assert layer.bias.unique().tolist() == [7]


def test_weights_unlike_the_module_are_refused_and_named() -> None:
    layer = nn.Linear(2, 3)
    weights = {"weight": torch.ones(2, 3), "bias": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(InvalidRequestError) as caught:
        assign(layer, weights, "layer")
    assert "weight (expected (3, 2), found (2, 3))" in str(caught.value)
    assert "bias (expected torch.float32, found torch.int64)" in str(caught.value)


def test_like_weights_have_no_differences() -> None:
    layer = nn.Linear(2, 3).state_dict()
    assert differences(layer, layer) == ""
    assert differences(layer, {**layer, "gain": torch.ones(1)}) == "unexpected: gain"


def test_whole_numbers_stay_whole() -> None:
    norm = nn.BatchNorm1d(2)
    assign(norm, nn.BatchNorm1d(2).double().state_dict(), "norm")
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("layer", ["torch.nn.Embedding(2, 3)", "torch.nn.Linear(2, 3)"])
def test_a_module_without_weights_is_built_at_once(layer) -> None:
    """Drawing them would import torch's compiler, half of a server's start."""
    code = (
        "import sys, torch; from gmem_model.weights import without_weights\n"
        f"with without_weights(): layer = {layer}; torch.nn.init.normal_(layer.weight)\n"
        "assert layer.weight.is_meta; assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
