"""Every fixed-grid sampler of every process."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gmem_model.samplers import BEFORE_FIRST, Plan, integrate, plan, samplers_of
from gmem_model.samplers.transport import ode_grid
from gmem_shared.errors import InvalidRequestError, OutOfRangeError, UnknownSamplerError
from gmem_shared.model_config import EDM, Interpolant, Process, Transport
from tests.unit.model.samplers.gaussian import GaussianData, moments

INTERPOLANTS = [Interpolant(path="linear"), Interpolant(path="cosine")]
TRANSPORTS = [
    Transport(path=path, prediction=prediction)
    for path in ("linear", "gvp", "vp")
    for prediction in ("velocity", "noise", "score")
]
EDMS = [EDM(), EDM(churn=5, churn_min=0.05, churn_max=50, churn_noise=1.003)]
PROCESSES: list[Process] = [*INTERPOLANTS, *TRANSPORTS, *EDMS]
EVERY = [(process, name) for process in PROCESSES for name in samplers_of(process)]
DIFFUSIONS = ("constant", "sigma", "linear", "decreasing", "increasing-decreasing")


def test_which_samplers_serve_a_process() -> None:
    deterministic = ("euler", "midpoint", "heun", "heun3", "rk4")
    stochastic = ("euler-maruyama", "stochastic-heun")
    assert samplers_of(Interpolant()) == ("euler", "heun", "ab2", "euler-maruyama")
    assert samplers_of(Transport()) == (*deterministic, "ab2", *stochastic)
    assert samplers_of(Transport(prediction="noise")) == (*deterministic, *stochastic)
    assert samplers_of(EDM()) == ("heun", "euler")


def test_a_diffusion_that_diverges_leaves_the_deterministic_samplers() -> None:
    stochastic = {"euler-maruyama", "stochastic-heun"}
    for path in ("linear", "gvp"):
        assert not stochastic & {*samplers_of(Transport(path=path, diffusion_form="sbdm"))}
    assert stochastic <= {*samplers_of(Transport(path="vp", diffusion_form="sbdm"))}


@pytest.mark.parametrize(
    ("process", "name", "order"),
    [
        (Interpolant(path="cosine"), "euler", 1),
        (Interpolant(path="cosine"), "heun", 2),
        (Interpolant(path="cosine"), "ab2", 2),
        (Transport(path="gvp"), "euler", 1),
        (Transport(path="gvp"), "midpoint", 2),
        (Transport(path="gvp"), "heun", 2),
        (Transport(path="gvp"), "ab2", 2),
        (Transport(path="gvp"), "heun3", 3),
        (Transport(path="gvp"), "rk4", 4),
        (Transport(path="gvp", timestep_shift=0.3), "heun", 2),
        (Transport(path="gvp", timestep_shift=0.3), "ab2", 2),
        # An eps far from the ends, where the drift diverges, lets the order show.
        (Transport(path="gvp", prediction="score", sample_eps=0.1), "heun3", 3),
        (Transport(path="gvp", prediction="noise", sample_eps=0.1), "rk4", 4),
        (Transport(path="vp", prediction="noise", sample_eps=0.1), "heun", 2),
        (EDM(), "euler", 1),
        (EDM(), "heun", 2),
    ],
    ids=str,
)
def test_error_falls_with_the_order_of_the_sampler(process, name, order) -> None:
    data = GaussianData(process)

    def end(num_steps: int) -> float:
        times = num_steps + isinstance(process, Transport)  # N times make N - 1 steps
        return integrate(in_double(plan(name, times, process)), data, x0).item()

    x0, steps = torch.full((1, 1, 1, 1), 0.7), {1: 128, 2: 64, 3: 16, 4: 8}[order]
    exact = end(16 * steps)
    coarse, fine = (abs(end(n) - exact) for n in (steps, 2 * steps))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def in_double(table: Plan) -> Plan:
    """The same sampler without the rounding of float32 states."""
    return replace(table, dtype=torch.float64)


@pytest.mark.parametrize(("process", "name"), EVERY, ids=str)
def test_samples_are_distributed_like_the_data(process, name) -> None:
    assert_gaussian(plan(name, 100, process), process)


@pytest.mark.parametrize("form", DIFFUSIONS)
@pytest.mark.parametrize("last_step", ["mean", "tweedie", "euler", None])
@pytest.mark.parametrize("name", ["euler-maruyama", "stochastic-heun"])
def test_every_diffusion_and_last_step_samples_the_data(form, last_step, name) -> None:
    process = Transport(
        diffusion_form=form, diffusion_norm=0.7, last_step=last_step, last_step_size=0.01
    )
    assert_gaussian(plan(name, 100, process), process)


@pytest.mark.parametrize("form", [*DIFFUSIONS, "sbdm"])
def test_variance_preserving_path_samples_with_every_diffusion(form) -> None:
    process = Transport(path="vp", diffusion_form=form, last_step_size=0.01)
    for name in ("euler-maruyama", "stochastic-heun"):
        assert_gaussian(plan(name, 100, process), process)


def assert_gaussian(table: Plan, process) -> None:
    data = GaussianData(process)
    mean, std = moments(table, data)
    assert mean == pytest.approx(data.mean, abs=0.04)
    assert std == pytest.approx(data.std, rel=0.04)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_reverse_leads_from_data_back_to_noise(path) -> None:
    process = Transport(path=path)
    data = GaussianData(process)
    x0 = torch.linspace(-3, 3, 16).view(-1, 1, 1, 1)
    images = integrate(plan("rk4", 40, process), data, x0)
    back = integrate(plan("rk4", 40, process, reverse=True), data, images)
    torch.testing.assert_close(back, x0, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("process", "ends"),
    [
        (Transport(), (1, 0)),
        (Transport(path="gvp", prediction="score", sample_eps=0.1), (0.9, 0.1)),
        (Transport(path="vp", sample_eps=0.1), (1, 0.1)),
        (Transport(path="vp", prediction="noise", sample_eps=0.1), (0.9, 0)),
    ],
    ids=str,
)
def test_reverse_mirrors_the_times_unless_the_drift_diverges_at_the_data(process, ends) -> None:
    starts, steps = ode_grid(process, 5, reverse=True)
    assert (starts[0], starts[-1] + steps[-1]) == pytest.approx(ends, abs=1e-6)


@pytest.mark.parametrize(
    ("process", "name", "evaluations"),
    [
        (Interpolant(), "euler", 10),
        (Interpolant(), "heun", 19),
        (Interpolant(), "ab2", 10),
        (Interpolant(), "euler-maruyama", 10),
        (Transport(), "euler", 9),
        (Transport(), "midpoint", 18),
        (Transport(), "heun", 18),
        (Transport(), "heun3", 27),
        (Transport(), "rk4", 36),
        (Transport(), "euler-maruyama", 10),
        (Transport(), "stochastic-heun", 19),
        (Transport(last_step=None), "euler-maruyama", 9),
        (Transport(last_step=None), "stochastic-heun", 17),
        (Transport(path="vp", last_step=None), "stochastic-heun", 18),
        (Transport(last_step_size=0), "euler-maruyama", 9),
        (EDM(), "heun", 19),
        (EDM(), "euler", 10),
    ],
    ids=str,
)
def test_evaluations_per_ten_steps(process, name, evaluations) -> None:
    assert len(plan(name, 10, process)) == evaluations


@pytest.mark.parametrize(("process", "name"), EVERY, ids=str)
def test_fewest_steps_and_one_fewer(process, name) -> None:
    least = 2 if isinstance(process, Transport) else 1
    assert len(plan(name, least, process)) >= 1
    with pytest.raises(OutOfRangeError, match=f"at least {least}, found {least - 1}") as refused:
        plan(name, least - 1, process)
    assert refused.value.errors[0]["field"] == "num_steps"


def test_one_step_of_an_interpolant_is_one_evaluation_at_pure_noise() -> None:
    for name in samplers_of(Interpolant()):
        table = plan(name, 1)
        assert table.times.tolist() == [1.0]
        assert table.noise.tolist() == [0.0]


def test_interpolant_sde_ends_with_one_step_without_noise() -> None:
    table = plan("euler-maruyama", 250)
    assert table.times[-1] == 0.04
    assert (table.noise[:-1] > 0).all()
    assert table.noise[-1] == 0


def test_transport_sde_ends_with_one_step_without_noise() -> None:
    process = Transport(last_step_size=0.004, diffusion_form="linear")
    euler, heun = (plan(name, 50, process) for name in ("euler-maruyama", "stochastic-heun"))
    for table in (euler, heun):
        assert table.times[-1] == np.float32(1 - 0.004)
        assert table.noise[-1] == 0
    assert (euler.noise[:-1] > 0).all()
    assert euler.initial_noise == 0
    # Heun's noise comes before its steps: the first one's before the first evaluation.
    assert heun.initial_noise == euler.noise[0]
    np.testing.assert_array_equal(heun.noise[1:-2:2], euler.noise[1:-1])


@pytest.mark.parametrize("name", ["euler", "rk4", "ab2"])
def test_timestep_shift_moves_times_towards_noise(name) -> None:
    even, shifted = (plan(name, 9, Transport(timestep_shift=shift)) for shift in (0.0, 0.3))
    starts = even.times[even.gates == even.times][:: len(even) // 8]
    moved = 0.3 * starts / (1 - 0.7 * starts)
    np.testing.assert_allclose(shifted.times[:: len(even) // 8], moved, rtol=1e-6)


def test_timestep_shift_does_not_touch_an_sde() -> None:
    for name in ("euler-maruyama", "stochastic-heun"):
        even, shifted = (plan(name, 9, Transport(timestep_shift=shift)) for shift in (0.0, 0.3))
        np.testing.assert_array_equal(even.times, shifted.times)


def test_churn_raises_the_noise_level_before_a_step() -> None:
    process = EDM(churn=30, churn_min=0.05, churn_max=50)
    calm, churned = (plan("heun", 12, p) for p in (EDM(), process))
    starts = calm.commit.nonzero()[0][:-1] + 1
    levels = calm.times[starts]
    inside = (levels >= 0.05) & (levels <= 50)
    raised = np.float32(levels * np.where(inside, math.sqrt(2), 1))
    np.testing.assert_allclose(churned.times[starts], raised, rtol=1e-6)
    np.testing.assert_allclose(churned.noise[starts - 1], np.where(inside, levels, 0), rtol=1e-6)
    assert churned.initial_noise == 0  # 80 is above churn_max
    assert plan("heun", 12, EDM(churn=30)).initial_noise == pytest.approx(80)


def test_edm_starts_at_the_largest_noise_level() -> None:
    assert plan("heun", 5, EDM(sigma_max=30)).initial_scale == 30


def test_noise_is_asked_for_by_the_evaluation_it_follows() -> None:
    asked: list[int] = []

    def noise(k: int) -> Tensor:
        asked.append(k)
        return torch.zeros(1, 1, 1, 1)

    integrate(
        plan("stochastic-heun", 4, Transport()), lambda x, t: x, torch.ones(1, 1, 1, 1), noise
    )
    assert asked == [BEFORE_FIRST, 1, 3]


def test_a_process_that_diverges_is_refused_naming_it() -> None:
    with pytest.raises(InvalidRequestError, match=r"stochastic-heun .* diffusion_norm=-1"):
        plan("stochastic-heun", 8, Transport(diffusion_norm=-1))


@pytest.mark.parametrize("process", [Interpolant(), Transport(), EDM()], ids=str)
def test_unknown_sampler_is_refused_with_the_known_names(process) -> None:
    names = ", ".join(samplers_of(process))
    with pytest.raises(UnknownSamplerError, match=f"{names}; found 'dopri5'"):
        plan("dopri5", 8, process)
