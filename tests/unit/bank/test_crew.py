from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gmem_bank.crew import Crew

WAIT_SECONDS = 20


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(2, 4, lambda: None)
    yield crew
    crew.shutdown()


def blocked(crew: Crew, until: threading.Event, *, begins: bool) -> threading.Event:
    """Give the crew a call that lasts; return what tells that it has a thread."""
    started = threading.Event()

    def call() -> None:
        if begins:
            crew.begin()
        started.set()
        until.wait(WAIT_SECONDS)

    crew.submit(call)
    return started


def test_threads_that_wait_for_a_message_do_not_count(crew: Crew) -> None:
    message = threading.Event()
    for _ in range(2):
        assert blocked(crew, message, begins=False).wait(WAIT_SECONDS)
    assert crew.submit(lambda: 7).result(WAIT_SECONDS) == 7
    message.set()


@pytest.mark.parametrize(("begins", "calls"), [(True, 2), (False, 4)])
def test_threads_that_work_do_and_there_is_an_end_to_those_that_wait(
    crew: Crew, begins: bool, calls: int
) -> None:
    end = threading.Event()
    for _ in range(calls):
        assert blocked(crew, end, begins=begins).wait(WAIT_SECONDS)
    assert not blocked(crew, end, begins=begins).wait(0.5)
    end.set()


def test_a_stand_in_is_for_one_call(crew: Crew) -> None:
    message, end = threading.Event(), threading.Event()
    waiting = [crew.submit(message.wait, WAIT_SECONDS) for _ in range(2)]
    crew.submit(lambda: None).result(WAIT_SECONDS)
    message.set()
    for call in waiting:
        call.result(WAIT_SECONDS)
    for _ in range(2):
        assert blocked(crew, end, begins=True).wait(WAIT_SECONDS)
    assert not blocked(crew, end, begins=True).wait(0.5)
    end.set()


def test_an_error_is_its_callers(crew: Crew) -> None:
    with pytest.raises(ZeroDivisionError):
        crew.submit(lambda: 1 / 0).result(WAIT_SECONDS)
    assert crew.submit(lambda: 7).result(WAIT_SECONDS) == 7
