from __future__ import annotations

from gmem_generator.promises import HORIZON_SECONDS, Promises


def test_requests_without_measured_work_are_remembered_up_to_a_bound() -> None:
    promises = Promises(lambda: 100.0)
    waits = [promises.make(number, 0.0, 0.0) for number in range(100_000)]
    assert waits[0] == 1
    assert waits[-1] == HORIZON_SECONDS
    assert sum(wait < HORIZON_SECONDS for wait in waits) < 20_000


def test_an_equal_request_takes_no_room_of_its_own() -> None:
    promises = Promises(lambda: 100.0)
    assert {promises.make("same", 0.0, 0.0) for _ in range(1000)} == {1}


def test_a_promise_is_of_its_request_and_of_its_time() -> None:
    now = [100.0]
    promises = Promises(lambda: now[0])
    wait = promises.make("mine", 0.1, 2.5)
    assert wait == 3
    assert not promises.expects("mine")
    now[0] += wait
    assert promises.expects("mine")
    assert not promises.keep("another's")
    assert promises.keep("mine")
    assert not promises.keep("mine")
