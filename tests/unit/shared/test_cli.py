from __future__ import annotations

import subprocess
import sys

import pytest

from gmem_shared import cli
from gmem_shared.errors import StorageError


def test_help_imports_no_service() -> None:
    code = (
        "import sys; from gmem_shared.cli import app; "
        "from typer.testing import CliRunner; "
        "assert 'serve' in CliRunner().invoke(app, ['--help']).output; "
        "loaded = {'torch', 'faiss', 'fastapi', 'sklearn'} & set(sys.modules); "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_is_found_and_explains_itself(command) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from gmem_shared.cli import main; main()", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage" in shown.stdout


def test_an_error_of_ours_is_one_sentence_and_status_1(monkeypatch, capsys) -> None:
    def fail() -> None:
        raise StorageError("the store does not answer")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "gmem: the store does not answer\n"
