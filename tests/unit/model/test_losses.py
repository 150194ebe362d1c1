import math

import pytest
import torch

from gmem_model.losses import (
    cosine_loss,
    lognormal_times,
    projection_loss,
    regression,
    training_interval,
    training_times,
)
from gmem_model.paths import drift, score
from gmem_shared.model_config import Interpolant, Transport

PATHS = ("linear", "gvp", "vp")
TIMES = torch.tensor([0.2, 0.5, 0.9])


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    x, eps = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, eps


def test_loss_is_a_mean_over_each_row(pair) -> None:
    task = regression(Interpolant(), *pair, TIMES)
    wrong = task.target.clone()
    wrong[1] += 2.0
    assert task.loss(wrong).tolist() == pytest.approx([0.0, 4.0, 0.0], abs=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_each_kind_of_prediction_is_asked_for_what_it_is_sampled_with(path, pair) -> None:
    x, eps = pair
    velocity = regression(Transport(path=path), x, eps, TIMES)
    for kind, answer in (("noise", eps), ("score", None)):
        process = Transport(path=path, prediction=kind)
        task = regression(process, x, eps, TIMES)
        given = answer if answer is not None else task.target / task.scale
        assert task.loss(given).tolist() == pytest.approx([0.0] * 3, abs=1e-10)
        t = TIMES.view(-1, 1, 1, 1)
        to_drift = drift(process, t)
        follows = to_drift.prediction * given + to_drift.state * task.x_t
        torch.testing.assert_close(follows, velocity.target, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["noise", "score"])
def test_the_velocity_weight_makes_the_loss_that_of_the_velocity(path, kind, pair) -> None:
    x, eps = pair
    process = Transport(path=path, prediction=kind)
    task = regression(process, x, eps, TIMES, "velocity")
    prediction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    to_drift = drift(process, TIMES.view(-1, 1, 1, 1))
    velocity = to_drift.prediction * prediction + to_drift.state * task.x_t
    expected = regression(Transport(path=path), x, eps, TIMES).loss(velocity)
    torch.testing.assert_close(task.loss(prediction), expected, rtol=1e-3, atol=1e-3)


def test_the_score_target_is_that_of_the_path(pair) -> None:
    x, eps = pair
    noise = regression(Transport(prediction="noise"), x, eps, TIMES)
    to_score = score(Transport(prediction="noise"), TIMES.view(-1, 1, 1, 1))
    task = regression(Transport(prediction="score"), x, eps, TIMES)
    assert task.loss(to_score.prediction * noise.target).max() < 1e-10


def test_cosine_loss_sees_direction_over_channels_and_no_length() -> None:
    target = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert cosine_loss(5 * target, target).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert cosine_loss(-target, target).tolist() == pytest.approx([2, 2], abs=1e-6)


def test_projection_loss_is_minus_one_where_every_token_points_to_its_feature() -> None:
    tokens = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert projection_loss([3 * tokens], [tokens]).tolist() == pytest.approx([-1, -1])
    both = projection_loss([tokens, tokens], [tokens, -tokens])
    assert both.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_one_feature_may_stand_for_all_tokens() -> None:
    random = torch.Generator().manual_seed(0)
    tokens, feature = torch.randn(2, 5, 7, generator=random), torch.randn(2, 1, 7, generator=random)
    expected = projection_loss([tokens], [feature.expand(2, 5, 7)])
    assert torch.equal(projection_loss([tokens], [feature]), expected)


def _normal_quantile(p: float) -> float:
    return math.sqrt(2) * torch.erfinv(torch.tensor(2 * p - 1)).item()


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("distribution", "process", "quantile"),
    [
        ("uniform", Interpolant(), lambda p: p),
        ("lognormal", Interpolant(), lambda p: _sigmoid(_normal_quantile(p))),
        ("lognormal", Transport(), lambda p: _sigmoid(_normal_quantile(p))),
        (
            "lognormal",
            Interpolant(path="cosine"),
            lambda p: math.atan(math.exp(_normal_quantile(p))) * 2 / math.pi,
        ),
    ],
)
def test_times_follow_their_distribution_and_their_generator(
    distribution, process, quantile
) -> None:
    def draw():
        return training_times(process, 50_000, torch.Generator().manual_seed(5), distribution)

    times = draw()
    assert torch.equal(times, draw())
    for p in (0.1, 0.5, 0.9):
        assert times.quantile(p).item() == pytest.approx(quantile(p), abs=0.01)


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (Interpolant(), (0, 1)),
        (Transport(train_eps=0.1), (0, 1)),
        (Transport(prediction="noise"), (0.001, 0.999)),
        (Transport(path="gvp", prediction="score", train_eps=0.01), (0.01, 0.99)),
        (Transport(path="vp"), (0, 1 - 1e-5)),
    ],
    ids=str,
)
def test_training_stays_where_the_target_is_finite(process, expected) -> None:
    assert training_interval(process) == pytest.approx(expected)
    times = training_times(process, 1000, torch.Generator().manual_seed(0), "uniform")
    assert expected[0] <= times.min() <= times.max() <= expected[1]
    farthest = lognormal_times(process, torch.tensor([-50.0, 50.0]))
    assert farthest.tolist() == pytest.approx(expected)
