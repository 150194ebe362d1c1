import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gmem_model.importing.layouts import read_checkpoint
from gmem_shared.errors import InvalidRequestError
from tests.support import checkpoints
from tests.support.canary import Canary
from tests.support.checkpoints import ARCHITECTURES

FAMILIES = sorted(ARCHITECTURES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("container", ["state-dict", "training"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_and_container_are_recognised(file, family, container) -> None:
    found = read_checkpoint(checkpoints.save(file, family, container))
    assert (found.family, found.container) == (family, container)
    assert_same(found.weights, checkpoints.weights(ARCHITECTURES[family]))


@pytest.mark.parametrize("counts", [list, tuple, np.array, torch.tensor])
def test_one_file_of_gmem_v1_holds_a_network(file, counts) -> None:
    network = checkpoints.weights(ARCHITECTURES["gmem-v1"])
    memory = checkpoints.memory()
    memory["memoryfreq"] = counts(memory["memoryfreq"])
    torch.save({"network": network, **memory}, file)
    found = read_checkpoint(file)
    assert (found.family, found.container) == ("gmem-v1", "one-file")
    assert_same(found.weights, network)


def test_safetensors_of_any_family_is_a_bare_state_dict(tmp_path) -> None:
    network = checkpoints.weights(ARCHITECTURES["sit"])
    save_file(network, tmp_path / "sit.safetensors")
    found = read_checkpoint(tmp_path / "sit.safetensors")
    assert (found.family, found.container) == ("sit", "state-dict")
    assert_same(found.weights, network)


def test_weights_of_a_wrapped_network_lose_the_wrapper(file) -> None:
    network = checkpoints.weights(ARCHITECTURES["gmem-v2"])
    torch.save({"model": {f"module.{name}": w for name, w in network.items()}}, file)
    assert_same(read_checkpoint(file).weights, network)


def test_former_names_of_repa_are_counted_on(file) -> None:
    network = checkpoints.weights(ARCHITECTURES["repa"])
    former = {n.replace("blocks.1.", "decoder_blocks.0."): w for n, w in network.items()}
    torch.save({"ema": former}, file)
    found = read_checkpoint(file)
    assert_same(found.weights, network)
    assert found.encoder_depth == 1


def test_a_former_name_without_a_number_is_kept(file) -> None:
    torch.save(
        checkpoints.weights(ARCHITECTURES["repa"]) | {"decoder_blocks.x": torch.ones(1)}, file
    )
    assert "decoder_blocks.x" in read_checkpoint(file).weights


def test_options_of_the_training_program_are_kept(file) -> None:
    checkpoints.save(file, "repa", "training", args=checkpoints.options(encoder_depth=2), steps=5)
    found = read_checkpoint(file)
    assert found.options["path_type"] == "linear"
    assert found.encoder_depth == 2


def test_family_can_be_said_where_names_cannot_tell(file) -> None:
    checkpoints.save(file, "sit")
    assert read_checkpoint(file, "repa").family == "repa"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(3, 4), "found a memory bank"),
        ({"C": 1, "M": 2, "S": 3, "mean": 4}, "found a memory bank"),
        ({"ema": {"stds": [0.1], "emas": []}}, "to be a tensor, found list"),
        ({"state": {}, "net": {}, "loss_fn": {}}, "found the keys state, net, loss_fn"),
        ({"ema": {"unet.weight": torch.zeros(1)}}, "found the keys unet.weight"),
        ([1, 2, 3], "found a list"),
        ({f"k{i}": i for i in range(20)}, "k7, …"),
    ],
)
def test_other_content_is_refused_with_what_was_found(file, content, found) -> None:
    torch.save(content, file)
    with pytest.raises(InvalidRequestError, match=found):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "place", ["network", "memorybank", "memoryfreq", "ema", "opt", "args", "bare", "whole"]
)
def test_payload_anywhere_in_a_checkpoint_is_refused_unexecuted(file, tmp_path, place) -> None:
    canary = tmp_path / "canary"
    payload = Canary(canary)
    network = checkpoints.weights(ARCHITECTURES["gmem-v1"])
    content = {
        "network": {"network": payload, **checkpoints.memory()},
        "memorybank": {"network": network, **checkpoints.memory(), "memorybank": payload},
        "memoryfreq": {"network": network, **checkpoints.memory(), "memoryfreq": [payload]},
        "ema": {"ema": {**network, "blocks.0.attn.qkv.bias": payload}},
        "opt": {"ema": network, "opt": payload},
        "args": {"ema": network, "args": argparse.Namespace(seed=payload)},
        "bare": {**network, "pos_embed": payload},
        "whole": payload,
    }[place]
    torch.save(content, file)
    with pytest.raises(InvalidRequestError, match=r"refused.*'posix\.mkdir'"):
        read_checkpoint(file)
    assert not canary.exists()
