"""Initial noise, computed for many rows at once."""

from __future__ import annotations

import numpy as np
import torch

from gmem_model import noise
from gmem_model.engine.arrays import DeviceArrays, HostArrays
from gmem_model.engine.initial import AHEAD, InitialNoise, Origin, signed

SHAPE = (1, 8, 8)
AHEAD_ROWS = AHEAD // 64


class Counting(HostArrays):
    """Remembers how many rows each computation had."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def normal(self, seeds, indices, stages, shape):  # type: ignore[no-untyped-def]
        self.rows.append(len(seeds))
        return super().normal(seeds, indices, stages, shape)


def alone(origin: Origin) -> np.ndarray:
    seed, index = origin
    return noise.normal(
        np.array([seed], np.uint64), np.array([index]), np.array([noise.INITIAL_LATENT]), SHAPE
    )[0]


def test_noise_is_the_same_alone_and_with_others() -> None:
    origins = [(0, 0), (2**64 - 1, 2**62 + 1), (0, 0), (7, 3)]
    upcoming = [(9, 9), (7, 3)]
    taken = InitialNoise(SHAPE, HostArrays()).take(origins, lambda _: upcoming)
    for origin, values in zip(origins, taken, strict=True):
        np.testing.assert_array_equal(values, alone(origin))


def test_noise_of_upcoming_rows_is_computed_with_the_first() -> None:
    arrays = Counting()
    initial = InitialNoise(SHAPE, arrays)
    waiting = [(seed, 0) for seed in range(10)]
    initial.take(waiting[:1], lambda rows: waiting[1 : 1 + rows])
    for origin in waiting[1:]:
        np.testing.assert_array_equal(initial.take([origin])[0], alone(origin))
    assert arrays.rows == [10]


def test_small_latents_are_computed_ahead_for_many_rows_and_large_ones_for_none() -> None:
    asked: list[int] = []
    for shape in (SHAPE, (32, 16, 16)):
        InitialNoise(shape, HostArrays()).take([(1, 0)], lambda rows: asked.append(rows) or [])
    assert asked == [AHEAD_ROWS - 1, 0]


def test_noise_of_rows_that_never_come_is_not_kept_for_ever() -> None:
    initial = InitialNoise(SHAPE, HostArrays())
    for seed in range(0, 4000, 100):
        initial.take([(seed, 0)], lambda rows, seed=seed: [(seed + 1 + n, 0) for n in range(rows)])
        assert len(initial._known) <= 2 * AHEAD_ROWS


def test_noise_that_is_used_is_not_kept() -> None:
    initial = InitialNoise(SHAPE, HostArrays())
    initial.take([(1, 0), (2, 0)])
    assert not initial._known


def test_tensors_and_numpy_arrays_hold_the_same_noise() -> None:
    origins = [(2**63, 5), (1, 2**40)]
    host = InitialNoise(SHAPE, HostArrays()).take(origins)
    device = InitialNoise(SHAPE, DeviceArrays(torch.device("cpu"))).take(origins)
    for values, tensor in zip(host, device, strict=True):
        torch.testing.assert_close(tensor, torch.from_numpy(values), rtol=1e-14, atol=1e-14)


def test_signed_integers_keep_the_bits_of_unsigned_ones() -> None:
    for value in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        assert np.array([signed(value)], np.int64).view(np.uint64)[0] == value
