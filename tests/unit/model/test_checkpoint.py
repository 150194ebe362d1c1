import pytest
import torch
from safetensors.torch import load_file, save_file

from gmem_model import checkpoint
from gmem_model.presets import preset
from gmem_model.sit import SiT
from gmem_shared.errors import CorruptVersionError
from gmem_shared.model_config import ModelConfig

CONFIG = ModelConfig(
    architecture=preset("digits"),
    encoder="encoder",
    default_bank="digits@production",
    default_sampler="ab2",
    default_steps=8,
)


@pytest.fixture
def network() -> SiT:
    return SiT(CONFIG.architecture, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "network.safetensors"
    checkpoint.save_network(path, network)
    return path


def test_loaded_network_is_the_saved_one_in_eval_mode(path, network) -> None:
    loaded = checkpoint.load_network(path, CONFIG)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert not loaded.pos_embed.requires_grad


def test_stored_positions_win_over_the_formula(path) -> None:
    weights = load_file(path)
    save_file(weights | {"pos_embed": 2 * weights["pos_embed"]}, path)
    loaded = checkpoint.load_network(path, CONFIG)
    assert torch.equal(loaded.pos_embed, 2 * weights["pos_embed"])


def test_half_precision_weights_are_served_in_float32(path) -> None:
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    loaded = checkpoint.load_network(path, CONFIG)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}


def test_weights_that_do_not_fit_are_all_named(path) -> None:
    weights = load_file(path)
    del weights["final_layer.linear.bias"]
    weights["y_embedder.embedding_table.weight"] = torch.zeros(11, 96)
    weights["x_embedder.proj.bias"] = torch.zeros(95)
    save_file(weights, path)
    with pytest.raises(CorruptVersionError) as caught:
        checkpoint.load_network(path, CONFIG)
    for part in (
        "missing: final_layer.linear.bias",
        "unexpected: y_embedder.embedding_table.weight",
        "x_embedder.proj.bias (expected (96,), found (95,))",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"not weights at all", b"\xff" * 64])
def test_file_that_is_no_safetensors_file_is_refused(path, damage) -> None:
    path.write_bytes(damage)
    with pytest.raises(CorruptVersionError, match=r"network\.safetensors"):
        checkpoint.load_network(path, CONFIG)


def test_interrupted_write_keeps_the_file_of_before(path, network, monkeypatch) -> None:
    before = path.read_bytes()

    def fail_halfway(_weights, target) -> None:
        target.write_bytes(before[:100])
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_network(path, network)
    assert path.read_bytes() == before
