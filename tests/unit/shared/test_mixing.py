import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmem_shared.errors import InvalidRequestError, OutOfRangeError
from gmem_shared.mixing import METHODS, interpolate, normalize

A = normalize(np.array([3.0, 4.0, 0.0, 0.0]))
B = normalize(np.array([0.0, 0.0, 1.0, 0.0]))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(METHODS))
def test_every_mix_has_length_one(seed: int, alpha: float, method: str) -> None:
    rng = np.random.default_rng(seed)
    a, b = normalize(rng.normal(size=(2, 5, 16)))
    mixed = interpolate(a, b, [alpha], method, rng.random((1, 5, 16)))
    assert mixed.shape == (1, 5, 16)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_way_leads_from_one_snippet_to_the_other(method: str) -> None:
    start, middle, end = interpolate(A, B, [0, 0.5, 1], method)
    np.testing.assert_allclose([start, end], [A, B], atol=1e-6)
    np.testing.assert_allclose(middle @ A, middle @ B, atol=1e-6)


def test_equal_snippets_mix_to_themselves() -> None:
    np.testing.assert_allclose(interpolate(A, A, [0, 0.3, 1], "spherical"), [A, A, A], atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_half_way_between_opposite_snippets_is_refused(method: str) -> None:
    with pytest.raises(OutOfRangeError, match="half-way between opposite"):
        interpolate(A, -A, [0.5], method)


def test_halves_are_halves_of_the_components_also_in_a_batch() -> None:
    first, second = interpolate(np.stack([A, A]), np.stack([B, A]), [0.5], "concat")[0]
    np.testing.assert_allclose(first, normalize(np.array([0.6, 0.8, 1, 0])), atol=1e-6)
    np.testing.assert_allclose(second, A, atol=1e-6)


def test_mask_needs_a_uniform_number_for_every_component() -> None:
    with pytest.raises(InvalidRequestError, match=r"shape \(2, 4\)"):
        interpolate(A, B, [0, 1], "mask", np.zeros((1, 4)))


def test_zero_stays_zero() -> None:
    assert not normalize(np.zeros((2, 3))).any()
