from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from gmem_model.networks import build
from gmem_trainer.data import digits
from gmem_trainer.presets import digits as digits_preset
from gmem_trainer.reproduction import study as module
from gmem_trainer.reproduction.arms import ARMS, Arm
from gmem_trainer.reproduction.curves import Curve
from gmem_trainer.reproduction.run import run
from gmem_trainer.reproduction.study import CHOICE_SEED, Protocol, describe, study
from tests.unit.trainer.reproduction.test_curves import curve

PROTOCOL = Protocol(seeds=(0, 1), learning_rates=(1e-3, 2e-3, 4e-3), looks=(1, 2))


def test_each_arm_chooses_on_validation_images_and_reports_on_test_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int, str, float]] = []

    def fake(arm: Arm, seed: int, part: str, protocol: Protocol) -> Curve:
        rate = arm.recipe.learning_rate
        asked.append((arm.name, seed, part, rate))
        best = 2e-3 if arm.name == "SiT" else 4e-3
        return curve(8.0 + abs(rate - best), seed)

    monkeypatch.setattr(module, "_run", fake)
    monkeypatch.setattr(module, "_reference", lambda: curve(8.0).points[0].figures)
    done: list[None] = []
    with ThreadPoolExecutor(2) as pool:
        outcome = study(PROTOCOL, pool, lambda: done.append(None))

    assert outcome.learning_rates["SiT"] == 2e-3
    assert outcome.learning_rates["GMem"] == 4e-3
    assert {part for _, seed, part, _ in asked if seed == CHOICE_SEED} == {"validation"}
    reported = [(name, seed, rate) for name, seed, part, rate in asked if part == "test"]
    assert sorted(reported) == sorted(
        (arm.name, seed, outcome.learning_rates[arm.name]) for arm in ARMS for seed in (0, 1)
    )
    assert len(done) == PROTOCOL.runs == len(asked)
    assert describe(PROTOCOL, outcome)["chosen_learning_rates"]["SiT"] == 2e-3


def test_arms_have_one_size_but_for_their_condition() -> None:
    sizes = {
        arm.name: sum(
            p.numel() for n, p in build(arm.architecture).named_parameters() if "project" not in n
        )
        for arm in ARMS
    }
    assert max(sizes.values()) / min(sizes.values()) < 1.01


@pytest.mark.parametrize("arm", ARMS[1:3], ids=lambda arm: arm.name)
def test_a_run_is_measured_at_every_look(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = replace(digits_preset(), encoder=replace(digits_preset().encoder, steps=2))
    monkeypatch.setattr("gmem_trainer.reproduction.run.digits_preset", lambda: brief)
    dataset = digits(digits_preset().split_seed)
    dataset = replace(dataset, train=dataset.train.take(np.arange(100)))
    found = run(arm.until(2), 0, dataset, dataset.validation, looks=(1, 2), per_class=20)
    assert [point.step for point in found.points] == [1, 2]
    assert 0 < found.points[0].seconds < found.points[1].seconds
    assert found.encoder_seconds > 0
    assert found.points[1].figures.frechet_features > 1  # two steps teach nothing
