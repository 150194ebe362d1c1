import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmem_model.edm2.layers import (
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)

BALANCES = st.floats(0, 1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def magnitude(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


@settings(deadline=None, max_examples=20)
@given(t=BALANCES)
def test_the_sum_of_independent_values_keeps_their_magnitude(t) -> None:
    x, y = normal(100_000), normal(100_000, seed=1)
    assert magnitude(mp_sum(x, y, t)) == pytest.approx(1, abs=0.02)


@settings(deadline=None, max_examples=20)
@given(t=BALANCES, channels=st.integers(1, 9))
def test_concatenation_keeps_the_magnitude_and_shares_it_out_by_balance(t, channels) -> None:
    x, y = normal(4, channels, 32, 32), normal(4, 4, 32, 32, seed=1)
    joined = mp_cat(x, y, t)
    assert magnitude(joined) == pytest.approx(1, abs=0.03)
    # Root of the energy, which does not depend on the number of channels.
    from_x, from_y = (part.norm().item() for part in joined.split([channels, 4], dim=1))
    assert from_x * t == pytest.approx(from_y * (1 - t), rel=0.05, abs=1e-3)


def test_silu_keeps_the_magnitude_of_normal_values() -> None:
    assert magnitude(mp_silu(normal(1_000_000))) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80])
def test_fourier_features_have_unit_magnitude(sigma) -> None:
    generator = torch.Generator().manual_seed(0)
    features = MPFourier(100_000, generator=generator)(torch.tensor([sigma]).log() / 4)
    assert magnitude(features) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_keeps_the_magnitude_whatever_its_weights(kernel) -> None:
    conv = MPConv(32, 64, kernel)
    with torch.no_grad():
        conv.weight.copy_(100 * torch.rand(64, 1, 1, 1) * normal(64, 32, kernel, kernel))
        inner = conv(normal(4, 32, 32, 32))[:, :, 1:-1, 1:-1]
    assert magnitude(inner) == pytest.approx(1, abs=0.05)


def test_a_linear_layer_keeps_the_magnitude_and_multiplies_by_the_gain() -> None:
    layer, x = MPConv(256, 512), normal(64, 256)
    assert magnitude(layer(x)) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(layer(x, gain=0.3), 0.3 * layer(x))


def test_normalised_values_have_unit_magnitude_along_the_axis() -> None:
    x = 7 * normal(3, 5, 4, 4)
    for dim in (None, 1):
        dims = (1, 2, 3) if dim is None else dim
        rms = normalize(x, dim).square().mean(dim=dims).sqrt()
        torch.testing.assert_close(rms, torch.ones_like(rms), rtol=1e-4, atol=1e-4)


def test_zero_stays_zero_when_it_is_normalised() -> None:
    assert not normalize(torch.zeros(2, 3)).any()


def test_stored_weights_are_normalised_per_output() -> None:
    conv = MPConv(8, 4, 3)
    with torch.no_grad():
        conv.weight.mul_(50)
    before = conv.weight.detach().clone()
    conv.normalize_stored()
    rms = conv.weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.ones(4), rtol=1e-4, atol=1e-4)
    cosine = torch.cosine_similarity(before.flatten(1), conv.weight.detach().flatten(1))
    torch.testing.assert_close(cosine, torch.ones(4))


def test_the_gradient_of_a_weight_is_orthogonal_to_it() -> None:
    conv = MPConv(8, 4, 3)
    conv(normal(2, 8, 6, 6)).square().sum().backward()
    gradient = conv.weight.grad.flatten(1)
    along = (gradient * conv.weight.detach().flatten(1)).sum(1)
    assert along.abs().max() < 1e-3 * gradient.norm() * math.sqrt(conv.weight[0].numel())


def test_half_precision_input_gives_half_precision_output() -> None:
    assert MPConv(4, 4, 3)(normal(1, 4, 4, 4).bfloat16()).dtype == torch.bfloat16


def test_going_up_and_down_again_changes_nothing() -> None:
    x = normal(2, 3, 4, 4)
    assert resample(x, "up").shape == (2, 3, 8, 8)
    torch.testing.assert_close(resample(resample(x, "up"), "down"), x)
    assert resample(x, "keep") is x
