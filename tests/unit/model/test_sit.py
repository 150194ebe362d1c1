import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmem_model.presets import preset
from gmem_model.sit import SiT
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import SiTArchitecture, SnippetCondition

ROWS = 64


def shaken(architecture: SiTArchitecture) -> SiT:
    """Return a network without the zeros that a fresh one begins with."""
    generator = torch.Generator().manual_seed(0)
    network = SiT(architecture, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def digits() -> SiT:
    return shaken(preset("digits"))


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 1, 8, 8, generator=generator)
    t = torch.rand(ROWS, generator=generator)
    return x, t, torch.randn(ROWS, 64, generator=generator)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_core_gives_a_row_the_same_bits_in_batches_of_1_to_64(digits, batch) -> None:
    x, t, snippets = batch
    modulation = digits.modulation(t, snippets)
    together = digits.core(x, modulation)
    for size in range(1, ROWS + 1):
        parts = zip(x.split(size), modulation.split(size), strict=True)
        assert torch.equal(torch.cat([digits.core(*part) for part in parts]), together), size


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_core_gives_a_row_the_same_bits_at_every_place(digits, batch) -> None:
    x, t, snippets = batch
    modulation = digits.modulation(t, snippets)
    together = digits.core(x, modulation)
    for size in (1, 2, 3, 5, 8, 31, ROWS):
        for shift in range(size):
            moved = digits.core(x[:size].roll(shift, 0), modulation[:size].roll(shift, 0))
            assert torch.equal(moved, together[:size].roll(shift, 0)), (size, shift)


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_modulation_of_a_pair_does_not_depend_on_its_company(digits, batch) -> None:
    _, t, snippets = batch
    together = digits.modulation(t, snippets)
    for size in range(1, ROWS + 1):
        parts = zip(t.split(size), snippets.split(size), strict=True)
        assert torch.equal(torch.cat([digits.modulation(*part) for part in parts]), together), size
    more = digits.modulation(t.repeat(3)[:130], snippets.repeat(3, 1)[:130])
    assert torch.equal(more, together.repeat(3, 1)[:130])


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 70), seed=st.integers(0, 2**32))
@torch.no_grad()
def test_forward_is_core_of_modulation(rows, seed) -> None:
    network = shaken(
        SiTArchitecture(
            input_size=4,
            patch_size=2,
            in_channels=2,
            hidden_size=16,
            depth=2,
            num_heads=2,
            condition=SnippetCondition(),
        )
    )
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, 4, 4, generator=generator)
    t = torch.rand(rows, generator=generator)
    snippets = torch.randn(rows, 768, generator=generator)
    modulation = network.modulation(t, snippets)
    assert modulation.shape == (rows, network.modulation_width)
    assert torch.equal(network(x, t, snippets), network.core(x, modulation))


def test_every_weight_learns_but_the_fixed_positions(batch) -> None:
    sizes = {"projector_dimension": 8, "projector_outputs": (5,), "encoder_depth": 2}
    network = shaken(preset("digits").model_copy(update=sizes)).train()
    x, t, snippets = batch
    velocity, (projection,) = network.forward_with_projections(x, t, snippets)
    assert projection.shape == (ROWS, 4, 5)
    (velocity.square().mean() + projection.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert (name == "pos_embed") == (parameter.grad is None), name
        assert parameter.grad is None or parameter.grad.any(), name


@torch.no_grad()
def test_untrained_network_predicts_no_motion(batch) -> None:
    assert not SiT(preset("digits"))(*batch).any()


def test_same_generator_gives_the_same_initial_weights() -> None:
    first, second = (
        SiT(preset("digits"), generator=torch.Generator().manual_seed(7)).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def test_length_of_a_snippet_does_not_matter(digits, batch) -> None:
    x, t, snippets = batch
    torch.testing.assert_close(digits(x, t, 3 * snippets), digits(x, t, snippets))
    torch.testing.assert_close(
        digits(x, t, snippets.half()), digits(x, t, snippets), atol=5e-2, rtol=5e-2
    )


@torch.no_grad()
def test_condition_dropout_acts_on_the_embedded_snippet(digits, batch) -> None:
    x, t, snippets = batch
    nothing = torch.zeros(ROWS, 96)
    other = snippets.flip(0)
    assert torch.equal(digits(x, t, snippets, keep=nothing), digits(x, t, other, keep=nothing))
    assert not torch.equal(digits(x, t, snippets), digits(x, t, other))


def test_keep_mask_drops_a_fifth_and_follows_its_generator(digits) -> None:
    first, again = (digits.keep_mask(500, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.unique().tolist() == [0, 1]
    assert first.mean().item() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch_size": 3}, "patch_size"),
        ({"num_heads": 5}, "num_heads"),
        ({"hidden_size": 90, "num_heads": 3}, "divisible by 4"),
        ({"projector_outputs": (8,), "encoder_depth": 5}, "encoder_depth"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change, named) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        SiT(preset("digits").model_copy(update=change))


def test_weights_carry_the_published_names_and_shapes() -> None:
    architecture = SiTArchitecture(
        input_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=64,
        depth=1,
        num_heads=4,
        condition=SnippetCondition(),
        encoder_depth=1,
        projector_dimension=32,
        projector_outputs=(768,),
    )
    shapes = {name: tuple(value.shape) for name, value in SiT(architecture).state_dict().items()}
    assert shapes == {
        "pos_embed": (1, 16, 64),
        "x_embedder.proj.weight": (64, 4, 2, 2),
        "x_embedder.proj.bias": (64,),
        "t_embedder.mlp.0.weight": (64, 256),
        "t_embedder.mlp.0.bias": (64,),
        "t_embedder.mlp.2.weight": (64, 64),
        "t_embedder.mlp.2.bias": (64,),
        "condition_projection.linear.weight": (64, 768),
        "condition_projection.linear.bias": (64,),
        "blocks.0.attn.qkv.weight": (192, 64),
        "blocks.0.attn.qkv.bias": (192,),
        "blocks.0.attn.proj.weight": (64, 64),
        "blocks.0.attn.proj.bias": (64,),
        "blocks.0.mlp.fc1.weight": (256, 64),
        "blocks.0.mlp.fc1.bias": (256,),
        "blocks.0.mlp.fc2.weight": (64, 256),
        "blocks.0.mlp.fc2.bias": (64,),
        "blocks.0.adaLN_modulation.1.weight": (384, 64),
        "blocks.0.adaLN_modulation.1.bias": (384,),
        "projectors.0.0.weight": (32, 64),
        "projectors.0.0.bias": (32,),
        "projectors.0.2.weight": (32, 32),
        "projectors.0.2.bias": (32,),
        "projectors.0.4.weight": (768, 32),
        "projectors.0.4.bias": (768,),
        "final_layer.linear.weight": (16, 64),
        "final_layer.linear.bias": (16,),
        "final_layer.adaLN_modulation.1.weight": (128, 64),
        "final_layer.adaLN_modulation.1.bias": (128,),
    }
