"""The numeric state of the batch, against the offline sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmem_model import noise
from gmem_model.engine.rows import MAX_WINDOW, Rows, RowSpec, plan_table
from gmem_model.samplers import SAMPLERS, integrate, plan
from gmem_shared.model_config import Interpolant
from tests.support.models import tiny_config, tiny_network

CONFIG = tiny_config()
NETWORK = tiny_network(CONFIG)
SHAPE = (1, 8, 8)
BUDGET = 256 << 20


@pytest.fixture(autouse=True)
def _as_the_engine_runs():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def spec(number: int, sampler: str = "ab2", num_steps: int = 4) -> RowSpec:
    snippet = np.random.default_rng(number).standard_normal(64).astype(np.float32)
    return RowSpec(
        plan_table(sampler, num_steps, Interpolant()),
        torch.from_numpy(snippet),
        seed=number,
        index=number % 7,
    )


def offline(row: RowSpec, sampler: str, num_steps: int) -> Tensor:
    """The row's latent by `samplers.integrate` and the whole network."""
    seeds, indices = np.array([row.seed], np.uint64), np.array([row.index])
    snippets = row.condition[None]

    def normal(stage: int) -> Tensor:
        return torch.from_numpy(noise.normal(seeds, indices, np.array([stage]), SHAPE))

    def velocity(x: Tensor, t: float) -> Tensor:
        return NETWORK(x.float(), torch.tensor([t]), snippets)

    return integrate(
        plan(sampler, num_steps),
        velocity,
        normal(noise.INITIAL_LATENT),
        lambda k: normal(noise.stage_of_evaluation(k)),
    )[0]


def run_alone(row: RowSpec, rows: Rows | None = None) -> Tensor:
    rows = rows or Rows(NETWORK, 1, modulation_bytes=BUDGET)
    slots = rows.join([row])
    for _ in range(len(row.table)):
        rows.step(slots)
    latent = rows.latents(slots)[0]
    rows.leave(slots)
    return latent


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 5, MAX_WINDOW + 3])
def test_a_row_equals_the_offline_sampler_bit_for_bit(sampler: str, num_steps: int) -> None:
    row = spec(3, sampler, num_steps)
    assert torch.equal(run_alone(row), offline(row, sampler, num_steps))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_short_windows_give_the_same_bits(sampler: str) -> None:
    row = spec(5, sampler, 7)
    pair_bytes = 4 * NETWORK.modulation_width
    for pairs in (1, 2, 3):
        rows = Rows(NETWORK, 2, modulation_bytes=2 * pairs * pair_bytes)
        assert rows.window == pairs
        assert torch.equal(run_alone(row, rows), run_alone(row))


def test_modulation_windows_respect_their_budget() -> None:
    budget = 1 << 20
    rows = Rows(NETWORK, 16, modulation_bytes=budget)
    assert 0 < 16 * rows.window * 4 * NETWORK.modulation_width <= budget


def test_a_used_slot_leaves_no_trace() -> None:
    rows = Rows(NETWORK, 1, modulation_bytes=BUDGET)
    run_alone(spec(1, "heun", 3), rows)
    assert torch.equal(run_alone(spec(2), rows), run_alone(spec(2)))


def test_a_row_that_is_not_finite_is_told_apart_and_harms_no_other() -> None:
    rows = Rows(NETWORK, 3, modulation_bytes=BUDGET)
    bad = spec(1)
    bad.condition[:] = np.nan
    good = spec(2)
    slots = rows.join([bad, good])
    assert rows.step(slots).tolist() == [False, True]
    for _ in range(len(good.table) - 1):
        rows.step(slots[1:])
    assert torch.equal(rows.latents(slots[1:])[0], run_alone(good))


def test_large_seeds_and_indices_are_kept_exactly() -> None:
    row = spec(1)
    large = RowSpec(row.table, row.condition, seed=2**64 - 1, index=2**62 + 1)
    rows = Rows(NETWORK, 2, modulation_bytes=BUDGET)
    slots = rows.join([large, row])
    seeds, indices = np.array([2**64 - 1], np.uint64), np.array([2**62 + 1])
    expected = noise.normal(seeds, indices, np.zeros(1, np.int64), SHAPE)
    np.testing.assert_array_equal(rows.latents(slots[:1]).numpy(), expected)


@given(st.data())
@settings(deadline=None, max_examples=15)
def test_any_company_and_any_order_give_the_same_bits(data: st.DataObject) -> None:
    kinds = st.tuples(st.sampled_from(SAMPLERS), st.integers(1, 6))
    specs = [
        spec(number, *kind)
        for number, kind in enumerate(data.draw(st.lists(kinds, min_size=1, max_size=24)))
    ]
    rows = Rows(NETWORK, 8, modulation_bytes=BUDGET)
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
        order = data.draw(st.permutations(list(running)))
        assert rows.step([running[number] for number in order]).all()
        for number in order:
            if rows.evaluations(running[number]) == len(specs[number].table):
                slot = running.pop(number)
                results[number] = rows.latents([slot])[0]
                rows.leave([slot])
    for number, latent in results.items():
        assert torch.equal(latent, run_alone(specs[number]))


def test_sixty_four_mixed_rows_give_the_bits_of_each_alone() -> None:
    kinds = [(SAMPLERS[number % 4], 1 + number % 9) for number in range(64)]
    specs = [spec(number, *kind) for number, kind in enumerate(kinds)]
    rows = Rows(NETWORK, 64, modulation_bytes=BUDGET)
    slots = rows.join(specs)
    left = list(range(64))
    while left:
        rows.step([slots[number] for number in left])
        left = [n for n in left if rows.evaluations(slots[n]) < len(specs[n].table)]
    together = rows.latents(slots)
    for number, row in enumerate(specs):
        assert torch.equal(together[number], run_alone(row))
