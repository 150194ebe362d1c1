"""The numeric state of the batch, against the offline sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmem_model import noise
from gmem_model.engine.rows import Rows
from gmem_model.engine.windows import MAX_WINDOW, ConditionArray, RowSpec
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import integrate, plan, samplers_of
from gmem_shared.model_config import (
    EDM,
    Guidance,
    Interpolant,
    LabelCondition,
    ModelConfig,
    NoCondition,
    SiTArchitecture,
    SnippetCondition,
    Transport,
)
from tests.support.models import (
    TINY_TRANSFORMER,
    edm2_config,
    label_config,
    lightningdit_config,
    random_network,
    tiny_config,
)

pytestmark = pytest.mark.usefixtures("as_the_engine_runs")

SHAPE = (1, 8, 8)
BUDGET = 256 << 20


def configured(config: ModelConfig, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(config.model_dump() | changes)


def guided_by_label(condition: LabelCondition | NoCondition) -> ModelConfig:
    """A network that takes a label, guided by a second one that may not."""
    config = edm2_config()
    assert config.guidance is not None
    guide = config.guidance.guide
    assert guide is not None
    main = config.architecture.model_copy(update={"condition": LabelCondition(num_classes=3)})
    second = guide.model_copy(update={"condition": condition})
    return configured(
        config,
        architecture=main,
        guidance=Guidance(guide=second, high=5.0),
        process=EDM(sigma_max=20, churn=3, churn_min=0.05),
    )


def four_channels() -> ModelConfig:
    sizes = TINY_TRANSFORMER | {"in_channels": 4}
    return configured(
        label_config(),
        architecture=SiTArchitecture(**sizes, condition=LabelCondition(num_classes=3)),
        process=Transport(path="gvp"),
        guidance=Guidance(channels=3),
    )


CONFIGS = {
    "snippets": tiny_config(),
    "snippets, predicted noise": configured(
        tiny_config(), process=Transport(path="vp", prediction="noise")
    ),
    "snippets, guided": configured(
        lightningdit_config(), process=Transport(diffusion_form="linear", last_step_size=0.004)
    ),
    "labels, guided in an interval": configured(
        label_config(),
        process=Interpolant(path="cosine"),
        guidance=Guidance(low=0.2, high=0.7),
    ),
    "labels, three channels guided": four_channels(),
    "no condition, guided by a second network": edm2_config(),
    "labels, guided by a second network": guided_by_label(LabelCondition(num_classes=3)),
    "labels, guided by a second network without": guided_by_label(NoCondition()),
}


class Served:
    """A model as the engine serves it."""

    def __init__(self, name: str) -> None:
        self.name, self.config = name, CONFIGS[name]
        guidance = self.config.guidance
        guide = guidance and guidance.guide and random_network(guidance.guide, seed=1)
        network = random_network(self.config.architecture, seed=0)
        self.networks = GuidedNetwork.of(network, guidance, guide)
        self.samplers = samplers_of(self.config.process)

    def __repr__(self) -> str:
        return self.name

    def rows(self, capacity: int, modulation_bytes: int = BUDGET) -> Rows:
        process = self.config.process
        return Rows(self.networks, process, capacity, modulation_bytes=modulation_bytes)

    def spec(self, number: int, sampler: str = "heun", num_steps: int = 4) -> RowSpec:
        """An image whose condition, guidance scale and noise depend on ``number``."""
        guidance = self.config.guidance
        if guidance is not None:
            guidance = guidance.model_copy(update={"scale": 1.0 + number % 3})
        table = plan(sampler, num_steps, self.config.process, guidance)
        return RowSpec(table, self.condition(number), seed=number, index=number % 7)

    def condition(self, number: int) -> ConditionArray:
        condition = self.config.architecture.condition
        if isinstance(condition, SnippetCondition):
            snippet = np.random.default_rng(number).standard_normal(condition.dimension)
            return snippet.astype(np.float32)
        return np.array(number % 3 if isinstance(condition, LabelCondition) else -1)


MODELS = [Served(name) for name in CONFIGS]
DIGITS = MODELS[0]
EVERY = [(model, sampler) for model in MODELS for sampler in model.samplers]


def offline(model: Served, row: RowSpec) -> Tensor:
    """The row's latent by `samplers.integrate` and whole networks."""
    seeds, indices = np.array([row.seed], np.uint64), np.array([row.index])
    shape = model.networks.network.latent_shape

    def normal(stage: int) -> Tensor:
        return torch.from_numpy(noise.normal(seeds, indices, np.array([stage]), shape))

    predict, reference = model.networks.predictors(torch.from_numpy(row.condition)[None])
    return integrate(
        row.plan,
        predict,
        normal(noise.INITIAL_LATENT),
        lambda k: normal(noise.stage_of_evaluation(k)),
        reference=reference,
        channels=model.networks.channels,
    )[0]


def run_alone(model: Served, row: RowSpec, rows: Rows | None = None) -> Tensor:
    rows = rows or model.rows(1)
    slots = rows.join([row])
    for _ in range(len(row.plan)):
        rows.step()
    latent = rows.latents(slots)[0]
    rows.leave(slots)
    return latent


@pytest.mark.parametrize(("model", "sampler"), EVERY, ids=str)
def test_a_row_equals_the_offline_sampler_bit_for_bit(model: Served, sampler: str) -> None:
    row = model.spec(5, sampler, 6)
    latent = run_alone(model, row)
    assert latent.dtype == row.plan.dtype
    assert latent.isfinite().all()
    assert torch.equal(latent, offline(model, row))


@pytest.mark.parametrize("sampler", DIGITS.samplers)
@pytest.mark.parametrize("num_steps", [1, 2, MAX_WINDOW + 3])
def test_few_and_many_steps_equal_the_offline_sampler(sampler: str, num_steps: int) -> None:
    row = DIGITS.spec(3, sampler, num_steps)
    assert torch.equal(run_alone(DIGITS, row), offline(DIGITS, row))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_short_windows_give_the_same_bits(model: Served) -> None:
    networks = [model.networks.network, model.networks.reference]
    pair_bytes = 4 * sum(network.modulation_width for network in networks if network)
    row = model.spec(5, model.samplers[-1], 5)
    for pairs in (1, 3):
        rows = model.rows(2, modulation_bytes=2 * pairs * pair_bytes)
        assert rows.window == pairs
        assert torch.equal(run_alone(model, row, rows), run_alone(model, row))


def test_modulation_windows_respect_their_budget() -> None:
    budget = 1 << 20
    rows = DIGITS.rows(16, modulation_bytes=budget)
    assert 0 < 16 * rows.window * 4 * DIGITS.networks.network.modulation_width <= budget


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_used_slot_leaves_no_trace(model: Served) -> None:
    rows = model.rows(1)
    for sampler in model.samplers:
        run_alone(model, model.spec(1, sampler, 3), rows)
    row = model.spec(2)
    assert torch.equal(run_alone(model, row, rows), run_alone(model, row))


def test_a_row_that_is_not_finite_harms_no_other() -> None:
    rows = DIGITS.rows(3)
    bad = DIGITS.spec(1)
    bad.condition[:] = np.nan
    good = DIGITS.spec(2)
    slots = rows.join([bad, good])
    for _ in range(len(good.plan)):
        rows.step()
    first, second = rows.latents(slots)
    assert not first.isfinite().any()
    assert torch.equal(second, run_alone(DIGITS, good))


def test_large_seeds_and_indices_are_kept_exactly() -> None:
    row = DIGITS.spec(1)
    large = replace(row, seed=2**64 - 1, index=2**62 + 1)
    rows = DIGITS.rows(2)
    slots = rows.join([large, row])
    seeds, indices = np.array([2**64 - 1], np.uint64), np.array([2**62 + 1])
    expected = noise.normal(seeds, indices, np.zeros(1, np.int64), SHAPE)
    np.testing.assert_array_equal(rows.latents(slots[:1]).numpy(), expected)


@given(st.data())
@settings(deadline=None, max_examples=10)
def test_any_company_and_any_order_give_the_same_bits(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(MODELS))
    kinds = st.tuples(st.sampled_from(model.samplers), st.integers(2, 5))
    specs = [
        model.spec(number, *kind)
        for number, kind in enumerate(data.draw(st.lists(kinds, min_size=1, max_size=16)))
    ]
    rows = model.rows(8)
    waiting, running = list(range(len(specs))), dict[int, int]()
    results: dict[int, Tensor] = {}
    while waiting or running:
        joining = min(
            len(waiting), 8 - len(running), data.draw(st.integers(0 if running else 1, 8))
        )
        newcomers = [waiting.pop(0) for _ in range(joining)]
        if newcomers:
            running |= dict(
                zip(newcomers, rows.join([specs[number] for number in newcomers]), strict=True)
            )
        rows.step()
        for number in data.draw(st.permutations(list(running))):
            if rows.evaluations(running[number]) == len(specs[number].plan):
                slot = running.pop(number)
                results[number] = rows.latents([slot])[0]
                rows.leave([slot])
    for number, latent in results.items():
        assert torch.equal(latent, run_alone(model, specs[number]))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_sixty_four_mixed_rows_give_the_bits_of_each_alone(model: Served) -> None:
    names = model.samplers
    specs = [model.spec(n, names[n % len(names)], 2 + n % 2) for n in range(64)]
    rows = model.rows(64)
    slots = rows.join(specs)
    left, together = list(range(64)), {}
    while left:
        rows.step()
        done = [n for n in left if rows.evaluations(slots[n]) == len(specs[n].plan)]
        together |= dict(zip(done, rows.latents([slots[n] for n in done]), strict=True))
        rows.leave([slots[n] for n in done])
        left = [n for n in left if n not in done]
    for number in range(0, 64, 9):
        assert torch.equal(together[number], run_alone(model, specs[number]))
