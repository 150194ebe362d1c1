"""Laws of every diffusion transformer, whatever its family."""

import pytest
import torch
from torch import Tensor

from gmem_model.networks import build
from gmem_model.presets import DIGITS
from gmem_model.transformer import Transformer
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import LabelCondition, LightningDiTArchitecture, SiTArchitecture
from tests.support.networks import shaken

ROWS = 64
SIZES = {
    "input_size": 4,
    "patch_size": 1,
    "in_channels": 3,
    "hidden_size": 48,
    "depth": 2,
    "num_heads": 4,
    "encoder_depth": 1,
    "projector_dimension": 8,
    "projector_outputs": (5,),
}
ARCHITECTURES = {
    "digits": DIGITS,
    "sit": SiTArchitecture(
        condition=LabelCondition(num_classes=10), learn_sigma=True, qk_norm=True, **SIZES
    ),
    "lightningdit": LightningDiTArchitecture(**SIZES),
    "lightningdit-variant": LightningDiTArchitecture(
        **SIZES,
        learn_sigma=True,
        qk_norm=True,
        swiglu=False,
        rope=False,
        rmsnorm=False,
        shift=False,
    ),
}

Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request) -> Transformer:
    return shaken(build(ARCHITECTURES[request.param]))


@pytest.fixture(scope="module")
def inputs(network) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, *network.latent_shape, generator=generator)
    t = torch.rand(ROWS, generator=generator)
    condition = network.architecture.condition
    if isinstance(condition, LabelCondition):
        return x, t, torch.randint(-1, condition.num_classes, (ROWS,), generator=generator)
    return x, t, torch.randn(ROWS, condition.dimension, generator=generator)


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_core_gives_a_row_the_same_bits_in_batches_of_1_to_64(network, inputs) -> None:
    x, t, condition = inputs
    modulation = network.modulation(t, condition)
    together = network.core(x, modulation)
    for size in range(1, ROWS + 1):
        parts = zip(x.split(size), modulation.split(size), strict=True)
        assert torch.equal(torch.cat([network.core(*part) for part in parts]), together), size


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_core_gives_a_row_the_same_bits_at_every_place(network, inputs) -> None:
    x, t, condition = inputs
    modulation = network.modulation(t, condition)
    together = network.core(x, modulation)
    for size in (1, 2, 3, 5, 8, 31, ROWS):
        for shift in range(size):
            moved = network.core(x[:size].roll(shift, 0), modulation[:size].roll(shift, 0))
            assert torch.equal(moved, together[:size].roll(shift, 0)), (size, shift)


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_modulation_of_a_pair_does_not_depend_on_its_company(network, inputs) -> None:
    _, t, condition = inputs
    together = network.modulation(t, condition)
    for size in range(1, ROWS + 1):
        parts = zip(t.split(size), condition.split(size), strict=True)
        assert torch.equal(torch.cat([network.modulation(*part) for part in parts]), together), size
    more = network.modulation(torch.cat([t] * 3)[:130], torch.cat([condition] * 3)[:130])
    assert torch.equal(more, torch.cat([together] * 3)[:130])


@torch.no_grad()
def test_forward_is_core_of_modulation(network, inputs) -> None:
    for rows in (1, 3, ROWS):
        x, t, condition = (value[:rows] for value in inputs)
        modulation = network.modulation(t, condition)
        assert modulation.shape == (rows, network.modulation_width)
        prediction = network(x, t, condition)
        assert prediction.shape == x.shape
        assert torch.equal(prediction, network.core(x, modulation))


@torch.no_grad()
def test_projections_see_tokens_without_changing_the_prediction(network, inputs) -> None:
    prediction, projections = network.forward_with_projections(*inputs)
    assert torch.equal(prediction, network(*inputs))
    tokens = (network.architecture.input_size // network.architecture.patch_size) ** 2
    expected = [(ROWS, tokens, width) for width in network.architecture.projector_outputs]
    assert [tuple(projection.shape) for projection in projections] == expected


def test_every_weight_learns_but_the_fixed_positions(network, inputs) -> None:
    network.zero_grad()
    velocity, projections = network.forward_with_projections(*inputs)
    sum(output.square().mean() for output in (velocity, *projections)).backward()
    for name, parameter in network.named_parameters():
        assert (name == "pos_embed") == (parameter.grad is None), name
        assert parameter.grad is None or parameter.grad.any(), name


@torch.no_grad()
def test_condition_that_is_dropped_whole_is_none(network, inputs) -> None:
    x, t, condition = inputs
    nothing = torch.zeros_like(network.keep_mask(ROWS, torch.Generator()))
    dropped = network(x, t, condition, keep=nothing)
    assert torch.equal(dropped, network(x, t, condition.flip(0), keep=nothing))
    assert not torch.equal(dropped, network(x, t, condition))


def test_keep_mask_follows_its_generator(network) -> None:
    first, again = (network.keep_mask(500, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.unique().tolist() == [0, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_same_generator_gives_the_same_initial_weights(architecture) -> None:
    first, second = (
        build(architecture, generator=torch.Generator().manual_seed(7)).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch_size": 3}, "patch_size"),
        ({"num_heads": 5}, "num_heads"),
        ({"hidden_size": 90, "num_heads": 3}, "divisible by 4"),
        ({"projector_outputs": (8,), "encoder_depth": 5}, "encoder_depth"),
    ],
)
@pytest.mark.parametrize("name", ["digits", "lightningdit"])
def test_sizes_that_do_not_fit_are_refused_by_name(name, change, named) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        build(ARCHITECTURES[name].model_copy(update=change))
