from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gmem_shared import keys
from gmem_shared.errors import ForbiddenError, InvalidRequestError, UnauthenticatedError
from gmem_shared.keys import ANONYMOUS, Keyring, key_of, new_key, read_keys, write_keys
from tests.support.keys import keys_file

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ring(file: Path, clock: Clock) -> Keyring:
    return Keyring(file, now=lambda: NOW, clock=clock)


def test_without_a_file_everybody_may_do_everything() -> None:
    keyring = Keyring(None)
    assert keyring.principal(None) is ANONYMOUS
    for scope in ("generate", "read", "admin"):
        ANONYMOUS.require(scope)


@pytest.mark.parametrize(
    ("host", "level"),
    [("127.0.0.1", "info"), ("::1", "info"), ("localhost", "info"),
     ("::", "warning"), ("10.0.0.7", "warning"), ("gpu-3", "warning")],
)  # fmt: skip
def test_a_server_without_keys_says_so_and_warns_where_others_reach_it(host, level) -> None:
    with capture_logs() as logs:
        Keyring(None).announce(host)
    (line,) = logs
    assert (line["event"], line["log_level"], line["host"]) == ("access.open", level, host)
    assert line["setting"] == "GMEM_SECURITY__API_KEYS_FILE"


def test_a_server_with_keys_says_how_many(file, clock) -> None:
    keys_file(file, alice={"scopes": ["read"]}, bob={"scopes": ["read"]})
    with capture_logs() as logs:
        ring(file, clock).announce("::")
    assert logs == [{"event": "access.keys", "keys": 2, "log_level": "info"}]


def test_a_key_says_who_asks_and_what_they_may_do(file, clock) -> None:
    made = keys_file(file, alice={"scopes": ["read"], "quota": {"images": "7/hour"}})
    principal = ring(file, clock).principal(made["alice"].encode())
    assert (principal.id, principal.quota.images) == ("alice", "7/hour")
    principal.require("read")
    with pytest.raises(ForbiddenError, match=r"scope 'admin', found 'alice' with \['read'\]"):
        principal.require("admin")


@pytest.mark.parametrize("key", [None, b"", b"gmem_", b"\xff\x00", b"x" * 100_000])
def test_no_key_and_an_unknown_one_are_refused(file, clock, key) -> None:
    keys_file(file, alice={"scopes": ["read"]})
    with pytest.raises(UnauthenticatedError):
        ring(file, clock).principal(key)


@pytest.mark.parametrize(("until", "good"), [(2025, False), (2026, False), (2027, True)])
def test_a_key_is_good_until_the_moment_it_expires(file, clock, until, good) -> None:
    expires = datetime(until, 1, 1, tzinfo=UTC)
    key = keys_file(file, alice={"scopes": ["read"], "expires": expires})["alice"].encode()
    if good:
        assert ring(file, clock).principal(key).id == "alice"
    else:
        with pytest.raises(UnauthenticatedError, match="'alice', which expired at"):
            ring(file, clock).principal(key)


def test_keys_are_never_the_same_and_their_file_holds_none(file) -> None:
    made = keys_file(file, **{f"k{n}": {"scopes": ["read"]} for n in range(50)})
    assert len(set(made.values())) == 50
    assert all(key.startswith("gmem_") and len(key) == 48 for key in made.values())
    assert not any(key in file.read_text() for key in made.values())


def test_a_changed_file_is_read_again_within_a_second(file, clock) -> None:
    old = keys_file(file, alice={"scopes": ["read"]})["alice"].encode()
    keyring = ring(file, clock)
    new = keys_file(file, alice={"scopes": ["read"]})["alice"].encode()
    clock.seconds += 0.9
    assert keyring.principal(old).id == "alice"
    clock.seconds += 0.2
    assert keyring.principal(new).id == "alice"
    with pytest.raises(UnauthenticatedError):
        keyring.principal(old)


def test_the_file_is_looked_at_once_a_second(file, clock, monkeypatch) -> None:
    key = keys_file(file, alice={"scopes": ["read"]})["alice"].encode()
    keyring = ring(file, clock)
    looks: list[Path] = []
    monkeypatch.setattr(keys, "_state", looks.append)
    for _ in range(100):
        clock.seconds += 0.05
        keyring.principal(key)
    assert len(looks) == 4


@pytest.mark.parametrize("damage", ["broken", "gone"])
def test_a_file_that_became_unreadable_leaves_the_keys_and_is_logged_once(
    file, clock, damage
) -> None:
    key = keys_file(file, alice={"scopes": ["read"]})["alice"].encode()
    keyring = ring(file, clock)
    file.write_text('[{"id": ') if damage == "broken" else file.unlink()
    with capture_logs() as events:
        for _ in range(5):
            clock.seconds += 2
            assert keyring.principal(key).id == "alice"
    assert [(e["event"], e["log_level"], e["kept"]) for e in events] == [
        ("keys.refused", "error", 1)
    ]
    other = keys_file(file, bob={"scopes": ["read"]})["bob"].encode()
    clock.seconds += 2
    assert keyring.principal(other).id == "bob"


GOOD = {"id": "a", "sha256": "0" * 64, "scopes": ["read"]}
BAD = [
    "", "{}", "[1]",
    *(
        json.dumps([GOOD | change])
        for change in (
            {"id": "a b"}, {"sha256": "gmem_secret"}, {"sha256": None}, {"scopes": []},
            {"scopes": ["write"]}, {"more": 1}, {"quota": {"images": "many"}},
            {"expires": "2026-01-01T00:00"},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("content", BAD)
def test_a_bad_file_stops_the_start_and_is_not_quoted(file, clock, content) -> None:
    file.write_text(content)
    with pytest.raises(InvalidRequestError, match="expected a JSON list of API keys") as refused:
        ring(file, clock)
    assert "secret" not in refused.value.detail


def test_two_entries_of_one_id_or_one_key_are_refused(file) -> None:
    _, alice = new_key("alice", ["read"], None)
    for twin in (alice.model_copy(update={"id": "bob"}), new_key("alice", ["read"], None)[1]):
        write_keys(file, [alice, twin])
        with pytest.raises(InvalidRequestError, match="expected another"):
            read_keys(file)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer k")], b"k"),
        ([(b"authorization", b"bearer  k ")], b"k"),
        ([(b"authorization", b"Basic k")], None),
        ([(b"authorization", b"k")], None),
        ([(b"x-api-key", b" k ")], b"k"),
        ([(b"x-api-key", b"other"), (b"authorization", b"Bearer k")], b"k"),
        ([(b"authorization", b"Basic proxy"), (b"x-api-key", b"k")], b"k"),
        ([(b"authorization", b"Bearer ")], b""),
        ([(b"authorization", b"Bearer")], b""),
        ([(b"cookie", b"key=k")], None),
    ],
)
def test_a_key_is_found_in_two_headers_and_nowhere_else(headers, key) -> None:
    assert key_of(headers) == key
