from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gmem_shared.errors import (
    GmemError,
    InvalidRequestError,
    UnknownModelError,
    UntrustedVersionError,
)
from gmem_shared.store import Repository, Store
from gmem_shared.store.cli import app


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def repository(store: Store) -> Repository:
    repository = store.repository("models", "digits")
    for payload in (b"one", b"two", b"three"):
        repository.publish({"data": payload}, message=f"says {payload.decode()}")
    return repository


@pytest.fixture(autouse=True)
def environment(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMEM_STORE__URL", url)
    monkeypatch.setenv("GMEM_STORE__CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("gmem_shared.logs.configure", lambda settings: None)


def gmem(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_versions_are_listed_with_their_aliases(repository: Repository) -> None:
    repository.set_alias("production", 2)
    lines = gmem("versions", "models/digits").output.splitlines()
    (line,) = (line for line in lines if "says two" in line)
    assert "production" in line
    assert repository.resolve(2).digest[:19] in line


def test_aliases_are_moved_and_their_history_is_shown(repository: Repository) -> None:
    for seq in ("1", "2"):
        assert gmem("alias", "set", "models/digits", "production", seq).exit_code == 0
    gmem("alias", "rollback", "models/digits", "production", "--reason", "worse")
    assert repository.alias("production").seq == 1
    assert "worse" in gmem("alias", "history", "models/digits", "production").output


def test_verify_reads_every_byte(repository: Repository) -> None:
    assert "every byte is as published" in gmem("verify", "models/digits", "3").output
    repository.open(repository.resolve(3)).path("data").write_bytes(b"thrEe")
    with pytest.raises(GmemError, match="file 'data', chunk 0"):
        gmem("verify", "models/digits", "3")


def test_keys_are_made_and_sign_what_was_published(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gmem("keygen", str(tmp_path / "key"))
    monkeypatch.setenv("GMEM_STORE__TRUSTED_KEYS_FILE", str(tmp_path / "key.pub"))
    with pytest.raises(UntrustedVersionError):
        gmem("verify", "models/digits", "2")
    monkeypatch.setenv("GMEM_STORE__SIGNING_KEY_FILE", str(tmp_path / "key"))
    assert "digits@2" in gmem("sign", "models/digits@2").output
    assert "every byte is as published" in gmem("verify", "models/digits", "2").output


def test_a_dry_run_deletes_nothing(repository: Repository) -> None:
    arguments = ("gc", "models/digits", "--keep-versions", "1", "--grace-days", "0")
    assert "6 objects would go" in gmem(*arguments, "--dry-run").output
    assert len(repository.versions()) == 3
    assert "6 objects deleted" in gmem(*arguments, "--settle-seconds", "0").output
    assert [version.seq for version in repository.versions()] == [3]


@pytest.mark.parametrize(
    ("target", "error"),
    [("digits", InvalidRequestError), ("models/other", UnknownModelError)],
)
def test_a_wrong_target_is_refused(
    repository: Repository, target: str, error: type[GmemError]
) -> None:
    with pytest.raises(error):
        gmem("versions", target)
