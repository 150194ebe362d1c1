import io

from rich.console import Console

from gmem_shared.progress import progress_bar


def test_bar_shows_how_much_is_done() -> None:
    output = io.StringIO()
    with progress_bar("rows", 200, Console(file=output, force_terminal=True, width=80)) as done:
        done(50)
        done(100)
    assert "rows" in output.getvalue()
    assert "75%" in output.getvalue()


def test_nothing_is_drawn_where_nobody_looks() -> None:
    output = io.StringIO()
    with progress_bar("rows", 2, Console(file=output, force_terminal=False)) as done:
        done(2)
    assert not output.getvalue().strip()
