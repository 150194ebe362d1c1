import pytest
import torch
from safetensors.torch import load_file, save_file

from gmem_model import checkpoint
from gmem_model.networks import build
from gmem_model.presets import DIGITS
from gmem_model.sit import SiT
from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from gmem_shared.model_config import (
    EDM,
    EDM2Architecture,
    Guidance,
    LabelCondition,
    LightningDiTArchitecture,
    ModelConfig,
    NoCondition,
    Transport,
)

CONFIG = ModelConfig(
    architecture=DIGITS,
    encoder="encoder",
    default_bank="digits@production",
    default_sampler="ab2",
    default_steps=8,
)
LIGHTNINGDIT = CONFIG.model_copy(
    update={
        "architecture": LightningDiTArchitecture(
            input_size=4,
            patch_size=1,
            in_channels=2,
            hidden_size=16,
            depth=1,
            num_heads=2,
            projector_outputs=(8,),
            encoder_depth=1,
        ),
        "process": Transport(),
    }
)


@pytest.fixture
def network() -> SiT:
    return SiT(DIGITS, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_served_in_float32(path, dtype) -> None:
    halves = {name: value.to(dtype) for name, value in load_file(path).items()}
    save_file(halves, path)
    loaded = checkpoint.load_network(path, CONFIG).state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in halves.items())
    assert {value.dtype for value in loaded.values()} == {torch.float32}


def test_weights_that_do_not_fit_are_all_named(path) -> None:
    weights = load_file(path)
    del weights["final_layer.linear.bias"]
    weights["y_embedder.embedding_table.weight"] = torch.zeros(11, 96)
    weights["x_embedder.proj.bias"] = torch.zeros(95)
    weights["blocks.0.attn.proj.bias"] = torch.zeros(96, dtype=torch.int64)
    save_file(weights, path)
    with pytest.raises(CorruptVersionError) as caught:
        checkpoint.load_network(path, CONFIG)
    for part in (
        "missing: final_layer.linear.bias",
        "unexpected: y_embedder.embedding_table.weight",
        "x_embedder.proj.bias (expected (96,), found (95,))",
        "blocks.0.attn.proj.bias (expected torch.float32, found torch.int64)",
    ):
        assert part in str(caught.value)


def test_rotary_tables_are_made_by_formula_where_the_file_lacks_them(tmp_path) -> None:
    network, path = build(LIGHTNINGDIT.architecture), tmp_path / "network.safetensors"
    weights = network.state_dict()
    save_file({name: v for name, v in weights.items() if "feat_rope" not in name}, path)
    loaded = checkpoint.load_network(path, LIGHTNINGDIT).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_stored_rotary_tables_win_over_the_formula(tmp_path) -> None:
    network, path = build(LIGHTNINGDIT.architecture), tmp_path / "network.safetensors"
    network.feat_rope.freqs_cos.fill_(0.5)
    checkpoint.save_network(path, network)
    loaded = checkpoint.load_network(path, LIGHTNINGDIT)
    assert loaded.feat_rope.freqs_cos.unique().tolist() == [0.5]


@torch.no_grad()
def test_network_without_its_projectors_is_served_without_them(tmp_path) -> None:
    network, path = build(LIGHTNINGDIT.architecture), tmp_path / "network.safetensors"
    weights = network.state_dict()
    save_file({name: v for name, v in weights.items() if "projector" not in name}, path)
    loaded = checkpoint.load_network(path, LIGHTNINGDIT)
    assert loaded.architecture.projector_outputs == ()
    inputs = torch.randn(3, 2, 4, 4), torch.rand(3), torch.randn(3, 768)
    assert torch.equal(loaded(*inputs), network(*inputs))


def test_half_a_projector_is_refused(tmp_path) -> None:
    path = tmp_path / "network.safetensors"
    weights = build(LIGHTNINGDIT.architecture).state_dict()
    del weights["projector.0.2.bias"]
    save_file(weights, path)
    with pytest.raises(CorruptVersionError, match=r"missing: projector\.0\.2\.bias"):
        checkpoint.load_network(path, LIGHTNINGDIT)


def test_guide_is_loaded_by_its_own_architecture(tmp_path) -> None:
    sizes = {
        "input_size": 4,
        "in_channels": 1,
        "model_channels": 8,
        "channel_mult": (1,),
        "num_blocks": 1,
        "channels_per_head": 8,
    }
    guide = EDM2Architecture(condition=NoCondition(), **sizes)
    config = ModelConfig(
        architecture=EDM2Architecture(condition=LabelCondition(num_classes=3), **sizes),
        process=EDM(),
        guidance=Guidance(guide=guide),
        default_sampler="heun",
        default_steps=4,
    )
    path = tmp_path / "guide.safetensors"
    checkpoint.save_network(path, build(guide))
    assert checkpoint.load_guide(path, config).architecture == guide
    with pytest.raises(InvalidRequestError, match="second network"):
        checkpoint.load_guide(path, CONFIG)


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
