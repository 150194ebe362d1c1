from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gmem_shared.errors import ConflictError, InvalidRequestError
from gmem_shared.keys import Keyring, digest
from gmem_shared.keys_cli import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["new", *arguments])


def test_it_prints_the_key_and_the_entry_that_accepts_it() -> None:
    key, entry = run("--id", "alice", "--scope", "read", "--scope", "generate").output.splitlines()
    known = json.loads(entry)
    assert known["sha256"] == digest(key.encode())
    assert set(known["scopes"]) == {"read", "generate"}


def test_it_adds_to_a_file_which_then_accepts_both_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = [
        run("--id", id, "--scope", "read", "--expires", "2100-01-01", "--file", str(file)).output
        for id in ("alice", "bob")
    ]
    keyring = Keyring(file)
    found = [keyring.principal(key.strip().encode()).id for key in made]
    assert found == ["alice", "bob"]


def test_an_id_that_is_taken_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run("--id", "alice", "--scope", "read", "--file", str(file))
    before = file.read_bytes()
    assert isinstance(
        run("--id", "alice", "--scope", "admin", "--file", str(file)).exception, ConflictError
    )
    assert file.read_bytes() == before


@pytest.mark.parametrize(("id", "scope"), [("a b", "read"), ("alice", "write")])
def test_a_bad_id_or_scope_is_refused(id, scope) -> None:
    assert isinstance(run("--id", id, "--scope", scope).exception, InvalidRequestError)
