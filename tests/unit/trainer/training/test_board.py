import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmem_trainer.training.board import board
from gmem_trainer.training.loop import Step


class Clock:
    """Advances by half a second each time it is looked at."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 0.5
        return self.seconds


def step(number: int) -> Step:
    losses = {"loss": 1.0 / number, "denoising": 0.5 / number}
    return Step(number, losses, gradient_norm=2.0, learning_rate=1e-3, averaged=None)


def curves(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_the_curves_of_a_run_are_read_back(tmp_path) -> None:
    with board(tmp_path, 64, Clock()) as write:
        for number in range(1, 4):
            write(step(number))
    events = curves(tmp_path)
    assert set(events.Tags()["scalars"]) == {
        "loss/loss", "loss/denoising", "learning_rate", "gradient_norm", "images_per_second",
    }  # fmt: skip
    losses = events.Scalars("loss/loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [e.value for e in events.Scalars("images_per_second")] == pytest.approx([128] * 3)


def test_a_resumed_run_replaces_the_steps_it_takes_again(tmp_path) -> None:
    for numbers in (range(1, 6), range(4, 8)):
        with board(tmp_path, 64, Clock()) as write:
            for number in numbers:
                write(step(number))
    assert [event.step for event in curves(tmp_path).Scalars("loss/loss")] == list(range(1, 8))


def test_a_finished_run_writes_nothing(tmp_path) -> None:
    with board(tmp_path / "curves", 64, Clock()):
        pass
    assert not (tmp_path / "curves").exists()
