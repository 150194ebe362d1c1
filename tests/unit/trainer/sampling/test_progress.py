import io

from rich.console import Console
from structlog.testing import capture_logs

from gmem_trainer.sampling.progress import sampling_progress


def test_machines_get_ten_events_with_speed_and_time_left() -> None:
    seconds = iter(range(1000))
    with (
        capture_logs() as events,
        sampling_progress(100, 0, Console(file=io.StringIO()), lambda: next(seconds)) as report,
    ):
        for count in range(2, 101, 2):
            report(count)
    assert [event["images"] for event in events] == list(range(10, 101, 10))
    assert events[4] | {"images": 50, "images_per_second": 10.0, "seconds_left": 5} == events[4]


def test_images_of_an_earlier_run_do_not_count_for_the_speed() -> None:
    seconds = iter([0.0, 2.0])
    with (
        capture_logs() as events,
        sampling_progress(100, 60, Console(file=io.StringIO()), lambda: next(seconds)) as report,
    ):
        report(80)
    assert events[0]["images_per_second"] == 10.0
    assert events[0]["seconds_left"] == 2


def test_people_see_a_bar_with_speed_and_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with sampling_progress(100, 0, console) as report:
        report(40)
        report(100)
    assert "100/100" in screen.getvalue()
    assert "images/s" in screen.getvalue()
