import io

from rich.console import Console
from structlog.testing import capture_logs

from gmem_trainer.progress import SILENT, Display, training_progress


def test_a_terminal_shows_loss_and_speed() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with training_progress(4, console) as report:
        for step in range(1, 5):
            report(step, 0.5)
    shown = output.getvalue()
    assert "4/4" in shown
    assert "loss 0.5000" in shown
    assert "steps/s" in shown


def test_a_log_gets_an_event_per_tenth_of_the_way() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with capture_logs() as events, training_progress(25, console) as report:
        for step in range(1, 26):
            report(step, 1.0)
    assert [event["step"] for event in events] == [*range(2, 26, 2), 25]
    assert events[0] | {"event": "training.progress", "loss": 1.0, "steps": 25} == events[0]


def test_the_shown_loss_is_a_running_mean() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with capture_logs() as events, training_progress(2, console) as report:
        report(1, 1.0)
        report(2, 0.0)
    assert [event["loss"] for event in events] == [1.0, 0.95]


def test_preparation_is_logged_now_and_then() -> None:
    with capture_logs() as logs, Display(Console(file=io.StringIO())).preparation(100) as done:
        for _ in range(50):
            done(2)
    assert [log["images"] for log in logs if log["event"] == "preparation.progress"] == list(
        range(10, 101, 10)
    )


def test_preparation_shows_a_bar_to_people() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with Display(console).preparation(40) as done:
        done(10)
        done(30)
    assert "40/40" in output.getvalue()


def test_a_silent_display_shows_nothing() -> None:
    with capture_logs() as logs, SILENT.training(2) as step, SILENT.preparation(2) as done:
        step(1, 0.5)
        done(2)
    assert logs == []
