"""Weights, references and their conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmem_model.guidance import GuidedNetwork, guide, weights
from gmem_shared.model_config import Guidance, LabelCondition, NoCondition, SiTArchitecture
from tests.support.models import TINY_TRANSFORMER, edm2_config, label_config, random_network

TIMES = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def test_guidance_leads_away_from_the_reference() -> None:
    prediction, reference = torch.full((2, 4, 1, 1), 3.0), torch.ones(2, 4, 1, 1)
    assert (guide(prediction, reference, torch.tensor(4.0)) == 9).all()
    assert (guide(prediction, reference, torch.tensor(1.0)) == prediction).all()
    assert (guide(prediction, reference, torch.tensor(0.0)) == reference).all()


def test_channels_that_are_not_guided_stay_as_predicted() -> None:
    prediction, reference = torch.full((2, 4, 1, 1), 3.0), torch.ones(2, 4, 1, 1)
    guided = guide(prediction, reference, torch.tensor(4.0), channels=3)
    assert guided[0].flatten().tolist() == [9, 9, 9, 3]


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (Guidance(scale=2), [2, 2, 2, 2, 2]),
        (Guidance(scale=2, low=0.25, high=0.75), [1, 2, 2, 2, 1]),
        (Guidance(scale=2, low=0.25, high=0.75, past_high="reference"), [1, 2, 2, 2, 0]),
        (Guidance(scale=2, low=0.3), [1, 1, 2, 2, 2]),
        (Guidance(scale=0.5, high=0.3), [0.5, 0.5, 1, 1, 1]),
    ],
    ids=str,
)
def test_weights_follow_the_interval(guidance, expected) -> None:
    assert weights(guidance, TIMES, torch.float64).tolist() == expected


def test_a_model_without_guidance_has_no_reference() -> None:
    network = random_network(label_config().architecture, 0)
    assert GuidedNetwork.of(network, None).predictors(torch.tensor([1]))[1] is None


def test_a_network_guides_itself_without_its_condition() -> None:
    network = random_network(label_config().architecture, 0)
    guided = GuidedNetwork.of(network, Guidance(channels=2))
    assert guided.reference is network
    assert guided.channels == 2
    assert guided.reference_condition(torch.tensor([0, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("condition", "expected"), [(LabelCondition(num_classes=3), [0, 2]), (NoCondition(), [-1, -1])]
)
def test_a_second_network_shares_the_condition_if_it_takes_one(condition, expected) -> None:
    network = random_network(label_config().architecture, 0)
    architecture = edm2_config().architecture.model_copy(update={"condition": condition})
    guided = GuidedNetwork.of(network, Guidance(), random_network(architecture, 1))
    assert guided.reference_condition(torch.tensor([0, 2])).tolist() == expected


@torch.no_grad()
def test_a_solver_with_its_own_times_is_guided_within_the_interval() -> None:
    network = random_network(
        SiTArchitecture(**TINY_TRANSFORMER, condition=LabelCondition(num_classes=3)), 0
    )
    guidance = Guidance(scale=3.0, low=0.5)
    networks = GuidedNetwork.of(network, guidance)
    condition, x = torch.tensor([0, 2]), torch.ones(2, 1, 8, 8)
    guided = networks.predictor(condition, guidance)
    predict, reference = networks.predictors(condition)
    assert reference is not None
    torch.testing.assert_close(guided(x, 0.4), predict(x, 0.4))
    away = guide(predict(x, 0.6), reference(x, 0.6), torch.tensor(3.0))
    torch.testing.assert_close(guided(x, 0.6), away)
    unguided = networks.predictor(condition, Guidance(scale=1.0))
    torch.testing.assert_close(unguided(x, 0.6), predict(x, 0.6))


@torch.no_grad()
def test_predictions_keep_to_the_precision_of_the_network() -> None:
    network = random_network(label_config().architecture, 0)
    x, condition = torch.ones(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    single = GuidedNetwork(network).predictors(condition)[0](x, 0.3)
    assert single.dtype == torch.float32
    double = GuidedNetwork(network.double()).predictors(condition)[0](x, 0.3)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)
