from __future__ import annotations

import json
import logging

import pytest
import structlog

from gmem_shared import logs
from gmem_shared.keys import new_key
from gmem_shared.settings import LogSettings


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], _ = before
    root.setLevel(before[1])
    structlog.reset_defaults()


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_our_events_and_the_libraries_come_in_one_format(capsys) -> None:
    logs.configure(LogSettings(json_lines=True))
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("ours").info("bank.version.swapped", seq=3)
        logging.getLogger("theirs").warning("careful")
    ours, theirs = lines(capsys)
    assert ours | {"timestamp": ""} == {
        "event": "bank.version.swapped", "seq": 3, "level": "info", "logger": "ours",
        "request_id": "r1", "timestamp": "",
    }  # fmt: skip
    assert theirs["event"] == "careful"
    assert theirs["request_id"] == "r1"


def test_events_below_the_level_are_dropped(capsys) -> None:
    logs.configure(LogSettings(json_lines=True, level="WARNING"))
    structlog.get_logger("ours").info("not shown")
    assert lines(capsys) == []


def test_libraries_that_announce_every_start_are_quiet_but_may_warn(capsys) -> None:
    logs.configure(LogSettings(json_lines=True))
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("something is wrong")
    assert [line["event"] for line in lines(capsys)] == ["something is wrong"]


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_looks_like_a_key_is_masked_wherever_it_stands(capsys, json_lines) -> None:
    logs.configure(LogSettings(json_lines=json_lines))
    key, entry = new_key("alice", ["read"], None)
    try:
        raise ValueError(f"sent by {key}")
    except ValueError:
        structlog.get_logger("ours").exception("request.failed", path=f"/x/{key}?k={key}")
        logging.getLogger("theirs").exception("got %s", key)
    written = capsys.readouterr().err
    assert key not in written
    assert written.count("gmem_…" if not json_lines else "gmem_") >= 4
    assert entry.id not in written
