import dataclasses

import pytest
import torch

from gmem_model.sit import SiT
from gmem_shared.errors import CorruptVersionError
from gmem_trainer.training.parallel import ALONE
from gmem_trainer.training.recipe import PowerAverage
from gmem_trainer.training.state import TrainingState


@pytest.fixture
def make_state(tiny):
    def make(**changes) -> TrainingState:
        network = SiT(tiny.architecture, generator=torch.Generator().manual_seed(0))
        return TrainingState(network, dataclasses.replace(tiny.training, **changes), ALONE)

    return make


def step(state: TrainingState, seed: int) -> float:
    random = torch.Generator().manual_seed(seed)
    for parameter in state.network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=random)
    norm = state.descend()
    state.average()
    return norm


def test_a_restored_state_goes_on_bit_for_bit(make_state, tmp_path) -> None:
    original = make_state()
    for seed in range(3):
        step(original, seed)
    original.save(tmp_path / "state")
    restored = make_state()
    restored.resume(tmp_path / "state")
    assert restored.step == 3
    for state in (original, restored):
        step(state, 3)
    for part in ("network", "averaged"):
        expected, found = (getattr(s, part).state_dict() for s in (original, restored))
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_without_a_saved_state_nothing_changes(make_state, tmp_path) -> None:
    state = make_state()
    state.resume(tmp_path / "absent")
    assert state.step == 0


def test_a_damaged_state_is_refused_and_named(make_state, tmp_path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"not a state")
    with pytest.raises(CorruptVersionError, match="delete the file"):
        make_state().resume(path)


def test_the_state_of_another_network_is_refused(make_state, tiny, tmp_path) -> None:
    state = make_state()
    step(state, 0)
    state.save(tmp_path / "state")
    wider = SiT(tiny.architecture.model_copy(update={"hidden_size": 32}))
    with pytest.raises(CorruptVersionError, match="delete the file"):
        TrainingState(wider, tiny.training, ALONE).resume(tmp_path / "state")


def test_gradients_are_clipped_to_the_recipes_norm_and_then_forgotten(make_state) -> None:
    state = make_state(max_gradient_norm=0.5)
    assert step(state, 0) > 10
    assert all(parameter.grad is None for parameter in state.network.parameters())
    free = make_state(max_gradient_norm=None)
    assert step(free, 0) > 10


def test_the_first_power_average_is_the_network_itself(make_state) -> None:
    state = make_state()
    step(state, 0)
    assert torch.equal(
        state.averaged.final_layer.linear.weight, state.network.final_layer.linear.weight
    )


def test_the_average_weighs_late_steps_by_the_power_function(make_state) -> None:
    state = make_state(average=PowerAverage(2.0))
    values = [1.0, 4.0, 9.0]
    bias = state.network.final_layer.linear.bias
    for state.step, value in enumerate(values, start=1):
        with torch.no_grad():
            bias.fill_(value)
        state.average()
    # Step t of T has the share (t / T)^(g + 1) - ((t - 1) / T)^(g + 1).
    shares = [(t / 3) ** 3 - ((t - 1) / 3) ** 3 for t in (1, 2, 3)]
    expected = sum(share * value for share, value in zip(shares, values, strict=True))
    assert state.averaged.final_layer.linear.bias[0].item() == pytest.approx(expected, rel=1e-6)
