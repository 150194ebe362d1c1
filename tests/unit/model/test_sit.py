import pytest
import torch
from torch import Tensor

from gmem_model.presets import DIGITS
from gmem_model.sit import SiT
from gmem_shared.model_config import LabelCondition, SiTArchitecture, SnippetCondition
from tests.support.networks import shaken

ROWS = 64


@pytest.fixture(scope="module")
def digits() -> SiT:
    return shaken(SiT(DIGITS))


@pytest.fixture
def labelled() -> SiT:
    change = {"condition": LabelCondition(num_classes=10), "learn_sigma": True}
    return shaken(SiT(DIGITS.model_copy(update=change)))


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 1, 8, 8, generator=generator)
    t = torch.rand(ROWS, generator=generator)
    return x, t, torch.randn(ROWS, 64, generator=generator)


@torch.no_grad()
def test_untrained_network_predicts_no_motion(batch) -> None:
    assert not SiT(DIGITS)(*batch).any()


@torch.no_grad()
def test_length_of_a_snippet_does_not_matter(digits, batch) -> None:
    x, t, snippets = batch
    torch.testing.assert_close(digits(x, t, 3 * snippets), digits(x, t, snippets))
    torch.testing.assert_close(
        digits(x, t, snippets.half()), digits(x, t, snippets), atol=5e-2, rtol=5e-2
    )


@torch.no_grad()
def test_dropout_acts_on_the_embedded_snippet_and_scales_what_it_keeps(digits) -> None:
    snippets = torch.randn(1, 64, generator=torch.Generator().manual_seed(2))
    keep = digits.keep_mask(1, torch.Generator().manual_seed(0))
    expected = digits.condition_projection(snippets) * keep / 0.8
    torch.testing.assert_close(digits._embed(snippets, keep), expected)


def test_keep_mask_drops_a_fifth_of_the_embedded_snippet(digits) -> None:
    mask = digits.keep_mask(500, torch.Generator().manual_seed(3))
    assert mask.shape == (500, 96)
    assert mask.mean().item() == pytest.approx(0.8, abs=0.01)


@torch.no_grad()
def test_no_class_is_the_line_after_the_last_class(labelled, batch) -> None:
    x, t, _ = batch
    none = labelled.no_condition(ROWS)
    assert torch.equal(labelled(x, t, none), labelled(x, t, torch.full((ROWS,), 10)))
    assert not torch.equal(labelled(x, t, none), labelled(x, t, torch.full((ROWS,), 9)))


@torch.no_grad()
def test_second_half_of_the_channels_is_left_out(labelled, batch) -> None:
    x, t, _ = batch
    labels = labelled.no_condition(ROWS)
    before = labelled(x, t, labels)
    # Channels lie innermost in a token: of the two of each pixel, the second is not used.
    labelled.final_layer.linear.weight[1::2] = 0
    assert torch.equal(labelled(x, t, labels), before)


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
