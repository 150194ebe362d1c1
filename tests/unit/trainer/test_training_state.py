import pytest
import torch

from gmem_model.sit import SiT
from gmem_shared.errors import CorruptVersionError
from gmem_trainer.training_state import TrainingState


@pytest.fixture
def make_state(tiny):
    def make() -> TrainingState:
        network = SiT(tiny.architecture, generator=torch.Generator().manual_seed(0))
        return TrainingState(network, learning_rate=1e-2, beta2=0.99)

    return make


def step(state: TrainingState, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in state.network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=random)
    state.descend(1e-2)
    state.average(6.94)


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


def test_the_first_average_is_the_network_itself(make_state) -> None:
    state = make_state()
    step(state, 0)
    assert torch.equal(
        state.averaged.final_layer.linear.weight, state.network.final_layer.linear.weight
    )


def test_the_average_weighs_late_steps_by_the_power_function(make_state) -> None:
    state = make_state()
    values, exponent = [1.0, 4.0, 9.0], 2.0
    bias = state.network.final_layer.linear.bias
    for state.step, value in enumerate(values, start=1):
        with torch.no_grad():
            bias.fill_(value)
        state.average(exponent)
    # Step t of T has the share (t / T)^(g + 1) - ((t - 1) / T)^(g + 1).
    shares = [(t / 3) ** 3 - ((t - 1) / 3) ** 3 for t in (1, 2, 3)]
    expected = sum(share * value for share, value in zip(shares, values, strict=True))
    assert state.averaged.final_layer.linear.bias[0].item() == pytest.approx(expected, rel=1e-6)
