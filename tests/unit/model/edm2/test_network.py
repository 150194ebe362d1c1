import pytest
import torch

from gmem_model.edm2.network import EDM2, Preconditioning
from gmem_model.networks import build
from gmem_model.presets import preset
from gmem_shared.errors import InvalidRequestError
from tests.support.edm2 import architecture, network

ROWS = 16


@pytest.fixture(scope="module")
def edm2() -> EDM2:
    return network()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 3, 8, 8, generator=generator)
    sigma = (-0.4 + torch.randn(ROWS, generator=generator)).exp()
    return x, sigma, torch.randint(-1, 5, (ROWS,), generator=generator)


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_core_gives_a_row_the_same_bits_in_any_company(edm2, batch) -> None:
    x, sigma, labels = batch
    modulation = edm2.modulation(sigma, labels)
    together = edm2.core(x, modulation)
    for size in (1, 2, 3, 5, 15):
        parts = zip(x.split(size), modulation.split(size), strict=True)
        assert torch.equal(torch.cat([edm2.core(*part) for part in parts]), together), size


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_core_gives_a_row_the_same_bits_at_every_place(edm2, batch) -> None:
    x, sigma, labels = batch
    modulation = edm2.modulation(sigma, labels)
    together = edm2.core(x, modulation)
    for shift in (1, 7):
        moved = edm2.core(x.roll(shift, 0), modulation.roll(shift, 0))
        assert torch.equal(moved, together.roll(shift, 0)), shift


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_modulation_of_a_pair_does_not_depend_on_its_company(edm2, batch) -> None:
    _, sigma, labels = batch
    together = edm2.modulation(sigma, labels)
    assert together.shape == (ROWS, edm2.modulation_width)
    for size in (1, 3, 15):
        parts = zip(sigma.split(size), labels.split(size), strict=True)
        assert torch.equal(torch.cat([edm2.modulation(*part) for part in parts]), together), size


@torch.no_grad()
def test_class_minus_one_is_an_all_zero_one_hot_vector(edm2, batch) -> None:
    _, sigma, _ = batch
    seen = []
    handle = edm2.unet.emb_label.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    edm2.modulation(sigma[:3], torch.tensor([-1, 0, 4]))
    handle.remove()
    expected = torch.zeros(3, 5)
    expected[1, 0] = expected[2, 4] = 5**0.5
    torch.testing.assert_close(seen[0][:3], expected)


@torch.no_grad()
def test_classes_matter_to_a_conditional_network_only(edm2, batch) -> None:
    x, sigma, labels = batch
    other = (labels + 1) % 5
    assert not torch.allclose(edm2(x, sigma, labels), edm2(x, sigma, other))
    unconditional = network(num_classes=0)
    assert torch.equal(unconditional(x, sigma, labels), unconditional(x, sigma, other))
    assert torch.equal(unconditional.no_condition(2), torch.tensor([-1, -1]))


@torch.no_grad()
def test_a_fresh_network_shrinks_the_image_as_wiener_filtering_would(batch) -> None:
    x, sigma, labels = batch
    share = 0.25 / (0.25 + sigma**2)
    torch.testing.assert_close(
        EDM2(architecture())(x, sigma, labels), share[:, None, None, None] * x
    )


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_preconditioning_keeps_input_and_target_at_unit_variance(sigma_data) -> None:
    sigma = torch.logspace(-3, 2, 9)
    c = Preconditioning.at(sigma, sigma_data)
    ones = torch.ones_like(sigma)
    torch.testing.assert_close(c.input**2 * (sigma**2 + sigma_data**2), ones)
    # Variance of (data - c_skip (data + noise)) / c_out, the target of the U-Net.
    target = ((1 - c.skip) * sigma_data) ** 2 + (c.skip * sigma) ** 2
    torch.testing.assert_close(target / c.out**2, ones)


@torch.no_grad()
def test_activations_stay_at_unit_magnitude_through_the_network(batch) -> None:
    _, sigma, labels = batch
    deep = network(num_blocks=3, channel_mult=(1, 2, 2), model_channels=32)
    magnitudes = {}

    def note(name):
        def hook(_layer, _inputs, output) -> None:
            magnitudes[name] = output.square().mean().sqrt().item()

        return hook

    for name, layer in [*deep.unet.enc.items(), *deep.unet.dec.items()]:
        layer.register_forward_hook(note(name))
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(ROWS, 3, 8, 8, generator=generator)
    deep(noise * (sigma**2 + 0.25).sqrt()[:, None, None, None], sigma, labels)
    assert all(0.5 < magnitude < 2 for magnitude in magnitudes.values()), magnitudes


def test_every_weight_but_the_uncertainty_learns_from_a_prediction(batch) -> None:
    x, sigma, labels = batch
    learner = network(seed=3).train()
    learner(x, sigma, labels).square().mean().backward()
    for name, parameter in learner.named_parameters():
        learns = not name.startswith("logvar")
        assert learns == (parameter.grad is not None and bool(parameter.grad.any())), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only(batch) -> None:
    x, sigma, labels = batch
    dropping = network(dropout=0.5)
    with torch.no_grad():
        assert torch.equal(dropping(x, sigma, labels), network()(x, sigma, labels))
        dropping.train()
        assert not torch.allclose(dropping(x, sigma, labels), dropping(x, sigma, labels))


def test_same_generator_gives_the_same_initial_weights() -> None:
    first, second = (network(seed=9).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_option_without_clipping_leaves_large_activations(batch) -> None:
    x, sigma, labels = batch
    with torch.no_grad():
        free, clipped = (network(clip_act=limit)(x, sigma, labels) for limit in (None, 0.1))
        assert not torch.allclose(free, clipped)
        assert torch.equal(free, network()(x, sigma, labels))


def test_weights_carry_the_published_names_and_shapes() -> None:
    shapes = {name: tuple(value.shape) for name, value in EDM2(architecture()).state_dict().items()}
    block = {
        "unet.dec.4x4_block1.emb_gain": (),
        "unet.dec.4x4_block1.conv_res0.weight": (16, 24, 3, 3),
        "unet.dec.4x4_block1.emb_linear.weight": (16, 16),
        "unet.dec.4x4_block1.conv_res1.weight": (16, 16, 3, 3),
        "unet.dec.4x4_block1.conv_skip.weight": (16, 24, 1, 1),
        "unet.dec.4x4_block1.attn_qkv.weight": (48, 16, 1, 1),
        "unet.dec.4x4_block1.attn_proj.weight": (16, 16, 1, 1),
    }
    rest = {
        "unet.out_gain": (),
        "unet.emb_fourier.freqs": (8,),
        "unet.emb_fourier.phases": (8,),
        "unet.emb_noise.weight": (16, 8),
        "unet.emb_label.weight": (16, 5),
        "unet.enc.8x8_conv.weight": (8, 4, 3, 3),
        "unet.out_conv.weight": (3, 8, 3, 3),
        "logvar_fourier.freqs": (6,),
        "logvar_fourier.phases": (6,),
        "logvar_linear.weight": (1, 6),
    }
    assert (block | rest).items() <= shapes.items()
    parts = {name.split(".")[2] for name in shapes if name.startswith(("unet.enc.", "unet.dec."))}
    assert parts == {
        *("8x8_conv", "8x8_block0", "8x8_block1", "8x8_up"),
        *("4x4_down", "4x4_block0", "4x4_block1", "4x4_in0", "4x4_in1"),
    }


def test_the_published_size_has_203_entries_and_one_embedding_per_block() -> None:
    with torch.device("meta"):
        edm2 = build(preset("EDM2-img512-s"))
    assert len(edm2.state_dict()) == 203
    gains = [name for name in edm2.state_dict() if name.endswith("emb_gain")]
    assert len(gains) == len(edm2.unet.blocks)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_size": 9}, "divisible by 2"),
        ({"channels_per_head": 5}, "channels_per_head"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change, named) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        EDM2(architecture(**change))


def test_a_condition_mask_is_refused(edm2, batch) -> None:
    _, sigma, labels = batch
    with pytest.raises(InvalidRequestError, match="no condition mask"):
        edm2.modulation(sigma, labels, keep=torch.ones(ROWS, 1))
