import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gmem_model.noise import (
    BEFORE_FIRST_EVALUATION,
    INITIAL_LATENT,
    normal,
    normal_on_device,
    stage_of_evaluation,
)


def noise(seed: int, index: int, stage: int, shape=(1, 2, 3)):
    return normal(
        np.array([seed], np.uint64), np.array([index], np.int64), np.array([stage]), shape
    )[0]


@pytest.mark.parametrize(
    ("seed", "index", "stage", "expected"),
    [
        (0, 0, 0, (0.9911376799303855, -0.9246625876655352, -0.6176089594591907)),
        (42, 0, 0, (-0.9701897900197691, 0.19401895535991237, -1.2356207433180222)),
        (42, 1, 0, (2.1276909215729662, 2.161373925041353, -0.4082708445571179)),
        (42, 0, 2**32 - 2, (-2.108727385922726, 0.5895808940288875, 0.35946321490082)),
        (42, 0, 1, (-1.6359778378492686, 0.09053567405285293, -1.5859388000615584)),
        (2**64 - 1, 2**40 + 5, 7, (-0.5685419478679258, -1.7869435527268613, -1.6580105202109716)),
    ],
)
def test_values_are_the_documented_ones(seed, index, stage, expected) -> None:
    # The integers are exact everywhere; a mathematics library may round the last bit differently.
    np.testing.assert_allclose(noise(seed, index, stage).ravel()[:3], expected, rtol=1e-14)


def test_noise_of_an_image_does_not_depend_on_batch_or_order() -> None:
    generator = np.random.default_rng(0)
    seeds = generator.integers(0, 2**64, 33, dtype=np.uint64)
    indices, stages = generator.integers(0, 1000, (2, 33))
    together = normal(seeds, indices, stages, (4, 5, 7))
    order = generator.permutation(33)
    np.testing.assert_array_equal(
        normal(seeds[order], indices[order], stages[order], (4, 5, 7)), together[order]
    )
    alone = [noise(*row, shape=(4, 5, 7)) for row in zip(seeds, indices, stages, strict=True)]
    np.testing.assert_array_equal(np.stack(alone), together)


def test_larger_latent_begins_with_the_smaller_ones_noise() -> None:
    small, large = noise(9, 3, 0, (1, 3, 3)), noise(9, 3, 0, (2, 8, 8))
    np.testing.assert_array_equal(small.ravel(), large.ravel()[:9])


def test_noise_is_standard_normal() -> None:
    values = normal(
        np.arange(64, dtype=np.uint64), np.zeros(64, int), np.zeros(64, int), (4, 32, 32)
    )
    sample = values.ravel()
    assert sample.mean() == pytest.approx(0, abs=5 / np.sqrt(sample.size))
    assert sample.var() == pytest.approx(1, abs=0.01)
    assert stats.skew(sample) == pytest.approx(0, abs=0.03)
    assert stats.kurtosis(sample) == pytest.approx(0, abs=0.05)
    assert stats.kstest(sample, "norm").pvalue > 1e-3


@pytest.mark.parametrize("varied", ["seed", "index", "stage"])
def test_neighbouring_streams_are_uncorrelated(varied) -> None:
    key = {"seed": 5, "index": 5, "stage": 5}
    first = noise(**key, shape=(4, 64, 64)).ravel()
    second = noise(**(key | {varied: 6}), shape=(4, 64, 64)).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_initial_latent_shares_its_stage_with_no_evaluation() -> None:
    assert INITIAL_LATENT not in {stage_of_evaluation(k) for k in range(-1, 10_000)}


def test_noise_before_the_first_evaluation_has_a_stage_that_no_evaluation_comes_to() -> None:
    assert stage_of_evaluation(-1) == BEFORE_FIRST_EVALUATION == 2**32 - 2


ORIGINS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))


@given(st.lists(ORIGINS, min_size=1, max_size=9))
@settings(deadline=None)
def test_a_device_makes_the_same_noise(origins: list[tuple[int, int, int]]) -> None:
    rows = [*origins, (2**64 - 1, 2**63 - 1, BEFORE_FIRST_EVALUATION), (2**63, 2**40, 0)]
    seeds, indices, stages = zip(*rows, strict=True)
    numbers = np.array(indices, np.int64), np.array(stages, np.int64)
    unsigned = np.array(seeds, np.uint64)
    expected = torch.from_numpy(normal(unsigned, *numbers, (3, 5, 2)))
    signed = torch.from_numpy(unsigned.view(np.int64))
    computed = normal_on_device(signed, *map(torch.from_numpy, numbers), (3, 5, 2))
    assert computed.dtype == torch.float64
    # The integers are the same; a mathematics library may round the last bit differently.
    torch.testing.assert_close(computed, expected, rtol=1e-13, atol=1e-13)
