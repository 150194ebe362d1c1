import pytest
import torch

from gmem_model.lightningdit import LightningDiT, RotaryEmbed, SwiGLU
from gmem_model.networks import build
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LightningDiTArchitecture
from tests.support.networks import shaken

ROWS = 5
ARCHITECTURE = LightningDiTArchitecture(
    input_size=4,
    patch_size=1,
    in_channels=32,
    hidden_size=64,
    depth=1,
    num_heads=4,
    encoder_depth=1,
    projector_dimension=48,
    projector_outputs=(768,),
)


@pytest.fixture(scope="module")
def network() -> LightningDiT:
    return shaken(LightningDiT(ARCHITECTURE))


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 32, 4, 4, generator=generator)
    snippets = torch.randn(ROWS, 768, generator=generator)
    return x, torch.rand(ROWS, generator=generator), snippets


def test_weights_carry_the_published_names_and_shapes(network) -> None:
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == {
        "pos_embed": (1, 16, 64),
        "feat_rope.freqs_cos": (16, 16),
        "feat_rope.freqs_sin": (16, 16),
        "x_embedder.proj.weight": (64, 32, 1, 1),
        "x_embedder.proj.bias": (64,),
        "t_embedder.mlp.0.weight": (64, 256),
        "t_embedder.mlp.0.bias": (64,),
        "t_embedder.mlp.2.weight": (64, 64),
        "t_embedder.mlp.2.bias": (64,),
        "condition_projection.linear.weight": (64, 768),
        "condition_projection.linear.bias": (64,),
        "blocks.0.norm1.weight": (64,),
        "blocks.0.attn.qkv.weight": (192, 64),
        "blocks.0.attn.qkv.bias": (192,),
        "blocks.0.attn.proj.weight": (64, 64),
        "blocks.0.attn.proj.bias": (64,),
        "blocks.0.norm2.weight": (64,),
        "blocks.0.mlp.w12.weight": (340, 64),
        "blocks.0.mlp.w12.bias": (340,),
        "blocks.0.mlp.w3.weight": (64, 170),
        "blocks.0.mlp.w3.bias": (64,),
        "blocks.0.adaLN_modulation.1.weight": (384, 64),
        "blocks.0.adaLN_modulation.1.bias": (384,),
        "projector.0.0.weight": (48, 64),
        "projector.0.0.bias": (48,),
        "projector.0.2.weight": (48, 48),
        "projector.0.2.bias": (48,),
        "projector.0.4.weight": (768, 48),
        "projector.0.4.bias": (768,),
        "final_layer.norm_final.weight": (64,),
        "final_layer.linear.weight": (32, 64),
        "final_layer.linear.bias": (32,),
        "final_layer.adaLN_modulation.1.weight": (128, 64),
        "final_layer.adaLN_modulation.1.bias": (128,),
    }


@pytest.mark.parametrize(("width", "hidden"), [(384, 1024), (1024, 2730), (1792, 4778)])
def test_gated_mlp_has_the_published_width(width, hidden) -> None:
    with torch.device("meta"):
        mlp = SwiGLU(width, 4 * width)
    assert mlp.w3.in_features == hidden


@torch.no_grad()
def test_attention_scores_depend_on_the_distance_of_two_tokens_only() -> None:
    grid, head_width = 5, 16
    turn = RotaryEmbed(head_width, grid)
    q, k = torch.randn(2, head_width, generator=torch.Generator().manual_seed(0))
    everywhere = (1, 1, grid * grid, head_width)
    scores = turn(q.expand(everywhere)) @ turn(k.expand(everywhere)).mT
    by_place = scores.view(grid, grid, grid, grid)  # row and column of q, then of k
    torch.testing.assert_close(by_place[1:, 1:, 1:, 1:], by_place[:-1, :-1, :-1, :-1])
    assert not torch.allclose(by_place[0, 0, 0, 1], by_place[0, 0, 1, 0])


@torch.no_grad()
def test_untrained_network_already_depends_on_time_and_snippet(inputs) -> None:
    network = LightningDiT(ARCHITECTURE, generator=torch.Generator().manual_seed(0))
    x, t, snippets = inputs
    assert not torch.allclose(network(x, t, snippets), network(x, 1 - t, snippets))
    assert not torch.allclose(network(x, t, snippets), network(x, t, -snippets))


@torch.no_grad()
def test_dropout_acts_on_the_unit_snippet_and_scales_what_it_keeps(network, inputs) -> None:
    x, t, snippets = inputs
    unit = torch.nn.functional.normalize(snippets)
    keep = network.keep_mask(ROWS, torch.Generator().manual_seed(0))
    expected = network.condition_projection.linear(unit * keep / 0.6)
    torch.testing.assert_close(network._embed(snippets, keep), expected)
    nothing = torch.zeros_like(keep)
    none = network(x, t, network.no_condition(ROWS))
    assert torch.equal(network(x, t, snippets, keep=nothing), none)


def test_keep_mask_drops_two_fifths_of_the_snippet(network) -> None:
    mask = network.keep_mask(500, torch.Generator().manual_seed(3))
    assert mask.shape == (500, 768)
    assert mask.mean().item() == pytest.approx(0.6, abs=0.01)


def test_modulation_without_shifts_is_narrower() -> None:
    network = build(ARCHITECTURE.model_copy(update={"shift": False, "depth": 3}))
    assert network.modulation_width == (4 * 3 + 2) * 64


def test_derived_weights_are_those_of_a_fresh_network(network) -> None:
    derived, weights = network.derived_weights(), network.state_dict()
    assert derived.keys() == {"feat_rope.freqs_cos", "feat_rope.freqs_sin"}
    assert all(torch.equal(weights[name], value) for name, value in derived.items())


def test_heads_that_cannot_turn_in_two_dimensions_are_refused() -> None:
    narrow = ARCHITECTURE.model_copy(update={"hidden_size": 60, "num_heads": 10})
    with pytest.raises(InvalidRequestError, match="head width divisible by 4"):
        LightningDiT(narrow)
    assert LightningDiT(narrow.model_copy(update={"rope": False})).derived_weights() == {}
