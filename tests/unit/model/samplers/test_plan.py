"""What a table does to a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmem_model.samplers import Plan, integrate, plan, samplers_of
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import EDM, Guidance, Interpolant, Transport

ONE = torch.ones(1, 1, 1, 1)


def test_lines_do_what_the_class_says() -> None:
    table = Plan(
        times=np.array([0.9, 0.5]),
        gates=np.array([0.9, 0.5]),
        base=np.array([2.0, 3.0]),
        prediction=np.array([5.0, 7.0]),
        previous=np.array([[0.0], [11.0]]),
        noise=np.array([13.0, 0.0]),
        commit=np.array([False, True]),
        guidance=np.ones(2),
        initial_scale=17.0,
        initial_noise=19.0,
    )
    inputs: list[float] = []

    def predict(x: Tensor, t: float) -> Tensor:
        inputs.append(x.item())
        return torch.full_like(x, t)

    result = integrate(table, predict, ONE, lambda k: torch.full_like(ONE, 10.0 ** (k + 1)))
    start = 17 * 1 + 19 * 1
    middle = 2 * start + 5 * 0.9 + 13 * 10
    assert inputs == pytest.approx([start, middle])
    # The base of the first line was not replaced, for it does not commit.
    assert result.item() == pytest.approx(3 * start + 7 * 0.5 + 11 * 0.9)


def test_appended_lines_keep_their_history() -> None:
    table = plan("rk4", 2, Transport()).then(plan("heun", 2, Transport()))
    assert table.history == 3
    np.testing.assert_array_equal(table.previous[:4], plan("rk4", 2, Transport()).previous)
    heun = plan("heun", 2, Transport()).previous
    np.testing.assert_array_equal(table.previous[4:], np.pad(heun, ((0, 0), (0, 2))))


@pytest.mark.parametrize(
    ("process", "dtype"),
    [(Interpolant(), torch.float64), (Transport(), torch.float32), (EDM(), torch.float32)],
    ids=str,
)
def test_states_have_the_precision_of_the_process(process, dtype) -> None:
    seen: set[torch.dtype] = set()

    def predict(x: Tensor, t: float) -> Tensor:
        seen.add(x.dtype)
        return x.half()

    assert integrate(plan("heun", 3, process), predict, ONE).dtype == dtype
    assert seen == {dtype}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_of_lines_apply_as_their_scalars(dtype) -> None:
    table = plan("heun", 3, Transport() if dtype == "float32" else Interpolant())
    assert table.lines.dtype == getattr(torch, dtype)
    assert table.lines.shape == (len(table), 7)


def test_network_evaluations_count_the_reference() -> None:
    process = Interpolant()
    plain, guided = (plan("heun", 10, process, g) for g in (None, Guidance(scale=2.0, high=0.55)))
    assert len(plain) == len(guided) == plain.network_evaluations == 19
    # Times 1, 0.9 … 0.1 start a step; those up to 0.5 are guided, and the last has no corrector.
    assert guided.network_evaluations == 19 + 2 * 5 - 1


def test_scale_one_asks_for_no_reference() -> None:
    guidance = Guidance(scale=1.0, high=0.5, past_high="reference")
    assert plan("euler", 10, Transport(), guidance).network_evaluations == 9


def test_interval_of_an_interpolant_is_decided_where_a_step_starts() -> None:
    weights = plan("heun", 4, Interpolant(), Guidance(scale=3.0, low=0.3, high=0.75)).guidance
    # Steps start at 1, 0.75, 0.5, 0.25; the corrector at 0.25 belongs to the step from 0.5.
    assert weights.tolist() == [1, 1, 3, 3, 3, 3, 1]


def test_interval_of_a_transport_is_decided_by_each_evaluation() -> None:
    guidance = Guidance(scale=3.0, low=0.5, high=0.8)
    assert plan("heun", 5, Transport(), guidance).guidance.tolist() == [1, 1, 1, 3, 3, 3, 3, 1]


def test_a_bound_that_is_a_time_of_the_grid_is_within_the_interval() -> None:
    # 0.7 in float32 lies below 0.7 in float64; the published program compares float32.
    process = Transport(last_step="mean", last_step_size=0.3)
    times = plan("euler-maruyama", 8, process).times
    assert times[-1] == np.float32(0.7) != 0.7
    guidance = Guidance(scale=3.0, low=0.7)
    assert plan("euler-maruyama", 8, process, guidance).guidance.tolist() == [1] * 7 + [3]


def test_stochastic_plan_without_noise_is_refused() -> None:
    for name in ("euler-maruyama", "stochastic-heun"):
        with pytest.raises(InvalidRequestError, match="noise source"):
            integrate(plan(name, 4, Transport()), lambda x, t: x, ONE)


def test_guided_plan_without_reference_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="reference"):
        integrate(plan("euler", 4, Interpolant(), Guidance(scale=2.0)), lambda x, t: x, ONE)


@pytest.mark.parametrize("process", [Interpolant(), Transport(), EDM(churn=3)], ids=str)
def test_padding_changes_nothing(process: Interpolant | Transport | EDM) -> None:
    z = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def noise(k: int) -> Tensor:
        return torch.randn(z.shape, generator=torch.Generator().manual_seed(k + 1), dtype=z.dtype)

    def predict(x: Tensor, t: float) -> Tensor:
        return x * 0.3 - t

    for sampler in samplers_of(process):
        table = plan(sampler, 4, process)
        for evaluations in (len(table), len(table) + 1, len(table) + 7):
            padded = table.padded(evaluations)
            assert len(padded) == evaluations
            assert padded.needs.tolist() == table.needs.tolist()
            expected = integrate(table, predict, z, noise)
            assert torch.equal(integrate(padded, predict, z, noise), expected)
