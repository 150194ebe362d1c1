import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmem_model.edm2.ema import (
    Profile,
    coefficients,
    decay,
    exponent_to_std,
    reconstruct,
    response,
    std_to_exponent,
)
from gmem_shared.errors import InvalidRequestError

LENGTHS = st.floats(0.005, 0.29)


@given(std=LENGTHS)
def test_length_and_exponent_are_inverse_to_each_other(std) -> None:
    assert exponent_to_std(std_to_exponent(std)) == pytest.approx(std, rel=1e-9)


@given(std=st.floats(0.03, 0.2))
def test_the_length_is_the_standard_deviation_of_the_response(std) -> None:
    time = 20_000
    weights = response(Profile(time, std), time + 100)
    at = np.arange(time + 100) / time
    assert weights.sum() == pytest.approx(1)
    mean = (weights * at).sum()
    assert math.sqrt((weights * (at - mean) ** 2).sum()) == pytest.approx(std, rel=0.01)
    assert not weights[time + 1 :].any()


@pytest.mark.parametrize("std", [0, -0.1, 0.301, 5])
def test_a_length_that_no_power_function_has_is_refused(std) -> None:
    with pytest.raises(InvalidRequestError, match="between 0 and"):
        std_to_exponent(std)


def test_steps_of_decay_give_the_response_of_the_profile() -> None:
    profile = Profile(400, 0.1)
    weights = np.zeros(401)
    for time in range(1, 401):
        share = decay(profile.std, time, 1)
        weights *= share
        weights[time] = 1 - share
    np.testing.assert_allclose(weights, response(profile, 401), atol=2e-4)


def test_one_step_alone_forgets_everything() -> None:
    assert decay(0.1, 2048, 2048) == 0


@given(std=LENGTHS)
def test_a_stored_average_is_made_of_itself_alone(std) -> None:
    stored = [Profile(1000, 0.05), Profile(2000, 0.1), Profile(3000, std)]
    if std in (0.05, 0.1):
        return
    np.testing.assert_allclose(coefficients(stored, stored), np.eye(3), atol=1e-6)


def trained(profiles: list[Profile], steps: int) -> tuple[np.ndarray, list[float]]:
    """Return made-up weights over time, and their averages under profiles."""
    path = np.sin(np.arange(steps) / 300) + np.arange(steps) / steps
    return path, [float(response(p, steps) @ path) for p in profiles]


def test_a_length_that_was_not_stored_is_close_to_the_average_of_that_length() -> None:
    stored = [Profile(t, std) for t in range(500, 4001, 500) for std in (0.05, 0.1)]
    path, averages = trained(stored, 4001)
    wanted = Profile(4000, 0.075)
    found = averages @ coefficients(stored, [wanted])[:, 0]
    expected = float(response(wanted, 4001) @ path)
    nearest = min(abs(averages[k] - expected) for k in (-1, -2))
    assert abs(found - expected) < 0.1 * nearest


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(4, 3, generator=generator).half(),
        "freqs": torch.randn(5, generator=generator).half(),
    }


SNAPSHOTS = [
    (Profile(t, std), seed)
    for seed, (t, std) in enumerate([(1000, 0.05), (1000, 0.1), (2000, 0.05), (2000, 0.1)])
]


def snapshots():
    return [(profile, lambda seed=seed: weights(seed)) for profile, seed in SNAPSHOTS]


@pytest.mark.parametrize(("profile", "seed"), SNAPSHOTS)
def test_the_length_of_a_stored_average_gives_it_back(profile, seed) -> None:
    found = reconstruct(snapshots(), profile)
    assert all(torch.equal(found[name], value) for name, value in weights(seed).items())


def test_reconstruction_mixes_by_the_coefficients_and_takes_buffers_from_the_latest() -> None:
    wanted = Profile(2000, 0.08)
    shares = coefficients([profile for profile, _ in SNAPSHOTS], [wanted])[:, 0]
    found = reconstruct(reversed(snapshots()), wanted, buffers=["freqs"])
    expected = sum(
        float(share) * weights(seed)["w"].double()
        for (_, seed), share in zip(SNAPSHOTS, shares, strict=True)
    )
    torch.testing.assert_close(found["w"], expected.half())
    assert any(torch.equal(found["freqs"], weights(seed)["freqs"]) for seed in (2, 3))


def test_reconstruction_holds_one_snapshot_at_a_time() -> None:
    alive = []

    class Held(dict):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    most = []

    def load(seed):
        most.append(len(alive))
        return Held(weights(seed))

    pairs = [(profile, lambda seed=seed: load(seed)) for profile, seed in SNAPSHOTS]
    reconstruct(pairs, Profile(2000, 0.07))
    assert max(most) <= 1


def test_a_time_before_all_snapshots_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="up to 500 training images"):
        reconstruct(snapshots(), Profile(500, 0.1))
