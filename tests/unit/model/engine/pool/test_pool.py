"""Tasks among processes that are scripted: divided, refused, cancelled, lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gmem_model.engine.pool import process as process_module
from gmem_model.engine.pool.messages import Ask, Cancel, Close, Prepare, State, Submit
from gmem_shared.errors import (
    CancelledError,
    ConflictError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    UnknownModelError,
)
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo
from tests.support.engine import Recorder, eventually, make_task
from tests.support.scripted import Child, Script, version

PINNED = f"tiny@{version(1).digest}"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script(monkeypatch)
    yield script
    script.pool.close()


def task_of(rows: int, **changes: Any) -> GenerationTask:
    """A task whose seeds are its positions."""
    changes = {
        "model": PINNED,
        "seeds": np.arange(rows, dtype=np.uint64),
        "num_steps": 10,
    } | changes
    return make_task(rows, **changes)


def submit(script: Script, task: GenerationTask) -> Recorder:
    recorder = Recorder()
    script.pool.submit(task, recorder)
    return recorder


def parts(script: Script) -> list[tuple[Child, GenerationTask]]:
    """The parts of the one task there is, each with its process."""
    return [(child, child.tasks(1)[0]) for child in script.children]


def why_not_ready(script: Script) -> str:
    try:
        script.pool.check()
    except NotReadyError as error:
        return error.detail
    return "ready"


def info(seq: int) -> ModelInfo:
    return ModelInfo(version(seq), "none", (1, 1, 1), (), "euler", 1, 1)


def test_a_small_task_is_left_whole_and_the_next_goes_elsewhere(script: Script) -> None:
    script.open()
    for _ in range(2):
        submit(script, task_of(3))
    assert [len(child.tasks(1)[0]) for child in script.children] == [3, 3]


def test_a_large_task_is_divided_and_its_images_keep_their_places(script: Script) -> None:
    script.open()
    recorder = submit(script, task_of(20))
    for child, part in reversed(parts(script)):
        assert len(part) == 10
        child.finish(part, *range(10))
    assert recorder.pixels() == [bytes([position]) for position in range(20)]
    assert recorder.endings == 1


def test_a_divided_task_takes_its_snippets_and_labels_along(script: Script) -> None:
    script.open()
    task = task_of(20, labels=np.arange(20, dtype=np.int32), indices=np.arange(20))
    submit(script, task)
    made = [part for _, part in parts(script)]
    for name in ("seeds", "indices", "snippets", "labels"):
        joined = np.concatenate([getattr(part, name) for part in made])
        assert np.array_equal(joined, getattr(task, name))


def test_a_task_of_an_alias_is_left_whole(script: Script) -> None:
    script.open()
    submit(script, task_of(100, model="tiny@production"))
    assert len(script.children[0].tasks(1)[0]) == 100


def test_work_that_is_done_no_longer_counts(script: Script) -> None:
    script.open()
    first, second = script.children
    recorder = submit(script, task_of(3))
    (task,) = first.tasks(1)
    first.finish(task, 0, 1, 2)
    recorder.wait()
    submit(script, task_of(1))
    assert len(first.tasks(2)) == 2
    assert second.tasks(0) == []


def test_an_id_is_free_again_when_the_task_has_ended(script: Script) -> None:
    script.open(1)
    (child,) = script.children
    task = task_of(1)
    recorder = submit(script, task)
    with pytest.raises(ConflictError):
        script.pool.submit(task, Recorder())
    child.finish(child.tasks(1)[0], 0)
    recorder.wait()
    submit(script, task)
    assert len({made.id for made in child.tasks(2)}) == 2


def test_late_images_of_a_cancelled_task_are_not_those_of_its_successor(script: Script) -> None:
    script.open(1)
    (child,) = script.children
    task = task_of(2)
    cancelled = submit(script, task)
    script.pool.cancel(task.id)
    assert isinstance(cancelled.wait().error, CancelledError)
    recorder = submit(script, task)
    old, new = child.tasks(2)
    child.finish(old, 0, 1)
    child.finish(new, 1, 0)
    recorder.wait()
    assert [image.position for image in recorder.images] == [1, 0]


def test_a_cancellation_reaches_every_part(script: Script) -> None:
    script.open()
    task = task_of(20)
    recorder = submit(script, task)
    script.pool.cancel(task.id)
    script.pool.cancel(task.id)
    assert isinstance(recorder.wait().error, CancelledError)
    for child, part in parts(script):
        eventually(lambda child=child: child.all(Cancel))
        assert child.all(Cancel) == [Cancel(part.id)]


def test_the_failure_of_a_part_is_that_of_the_task(script: Script) -> None:
    script.open()
    recorder = submit(script, task_of(20))
    (first, one), (second, other) = parts(script)
    first.fail(one, InternalError("broke"))
    recorder.wait()
    assert recorder.error is not None
    assert recorder.error.detail == "broke"
    eventually(lambda: second.all(Cancel) == [Cancel(other.id)])
    second.fail(other, InternalError("late"))
    second.finish(other, 0)
    assert first.all(Cancel) == []


def test_a_part_that_finds_no_room_is_made_elsewhere(script: Script) -> None:
    script.open()
    recorder = submit(script, task_of(20))
    (first, one), (second, other) = parts(script)
    first.fail(one, OverloadedError("full", retry_after_seconds=3.0))
    again = second.tasks(2)[1]
    assert np.array_equal(again.seeds, one.seeds)
    for part in (again, other):
        second.finish(part, *range(10))
    assert recorder.pixels() == [bytes([position]) for position in range(20)]


def test_a_task_without_room_anywhere_may_come_again_when_the_first_has_room(
    script: Script,
) -> None:
    script.open()
    recorder = submit(script, task_of(20))
    (first, one), (second, other) = parts(script)
    first.fail(one, OverloadedError("full", retry_after_seconds=3.0))
    second.fail(second.tasks(2)[1], OverloadedError("full", retry_after_seconds=5.0))
    recorder.wait()
    assert isinstance(recorder.error, OverloadedError)
    assert recorder.error.retry_after_seconds == 3.0
    eventually(lambda: second.all(Cancel) == [Cancel(other.id)])


def test_a_missed_deadline_counts_the_images_of_all_parts(script: Script) -> None:
    script.open()
    recorder = submit(script, task_of(20, deadline_seconds=7.0))
    (first, one), (second, other) = parts(script)
    first.finish(one, 0, 1)
    eventually(lambda: len(recorder.images) == 2)
    second.fail(other, DeadlineExceededError("when 0 of 10 images were finished"))
    recorder.wait()
    assert isinstance(recorder.error, DeadlineExceededError)
    assert recorder.error.detail == "the deadline of 7.0 s came when 2 of 20 images were finished"


def test_a_task_ends_with_its_process_and_another_takes_over(script: Script) -> None:
    script.open()
    recorder = submit(script, task_of(20))
    (first, _), (second, other) = parts(script)
    first.kill()
    recorder.wait()
    assert isinstance(recorder.error, NotReadyError)
    assert recorder.error.retry_after_seconds
    eventually(lambda: second.all(Cancel) == [Cancel(other.id)])
    script.pool.check()
    submit(script, task_of(20))
    assert len(second.tasks(2)[1]) == 20
    eventually(lambda: len(script.children) == 2)
    successor = script.children[0]
    script.ready(successor, version(1))
    submit(script, task_of(3))
    assert len(successor.tasks(1)[0]) == 3


def test_a_process_that_talks_nonsense_is_replaced(script: Script) -> None:
    script.open(1)
    (child,) = script.children
    recorder = submit(script, task_of(1))
    child.connection.send("not a list of messages")
    child.connection.send(5)
    assert isinstance(recorder.wait().error, NotReadyError)
    eventually(lambda: bool(script.children) and script.children[0] is not child)
    assert child.killed


def test_a_process_that_cannot_be_started_is_tried_again(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.open(1)
    (child,) = script.children
    failures: list[OSError] = []

    def fail_once(*args: Any, **options: Any) -> Child:
        if not failures:
            failures.append(OSError("out of memory"))
            raise failures[0]
        return Child(*args, **options)

    monkeypatch.setattr(process_module.subprocess, "Popen", fail_once)
    child.kill()
    eventually(lambda: bool(script.children) and script.children[0] is not child)
    assert failures


def test_a_pool_is_ready_when_one_process_is(script: Script) -> None:
    script.open()
    for child in script.children:
        child.say(State("model 'tiny' is being loaded", frozenset()))
    eventually(lambda: "being loaded" in why_not_ready(script))
    script.ready(script.children[1], version(1))
    script.pool.check()


def test_a_pool_without_processes_is_not_ready_and_says_why(script: Script) -> None:
    script.open(1)
    script.children[0].kill()
    eventually(lambda: "status" in why_not_ready(script))
    for call in (script.pool.check, lambda: submit(script, task_of(1))):
        with pytest.raises(NotReadyError, match="ended with status -9"):
            call()


def test_a_version_that_one_process_holds_is_made_there_while_others_load_it(
    script: Script,
) -> None:
    script.open()
    first, second = script.children
    script.ready(second, version(1), version(2))
    for _ in range(3):
        submit(script, task_of(20, model="tiny@2"))
    assert len(second.tasks(3)) == 3
    eventually(lambda: first.all(Prepare) == [Prepare("tiny@2")])
    assert first.all(Submit) == []
    script.ready(first, version(1), version(2))
    submit(script, task_of(3, model="tiny@2"))
    assert len(first.tasks(1)) == 1


def test_a_version_that_none_holds_is_made_anywhere(script: Script) -> None:
    script.open()
    submit(script, task_of(20, model="tiny@9"))
    assert [len(part) for _, part in parts(script)] == [10, 10]


def described(script: Script, *answers: Any) -> ModelInfo:
    """What the pool says when its processes say this."""
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(script.pool.describe, "tiny")
        for child, answer in zip(script.children, answers, strict=True):
            eventually(lambda child=child: child.all(Ask))
            child.answer(child.all(Ask)[-1], answer)
            child.heard.clear()
        return asking.result()


def test_while_an_alias_moves_the_version_that_all_hold_is_described(script: Script) -> None:
    script.open()
    first, second = script.children
    script.ready(first, version(1), version(2))
    assert described(script, [info(2)], [info(1)]) == info(1)
    script.ready(second, version(1), version(2))
    assert described(script, [info(2)], [info(1)]) == info(2)


def test_a_failure_to_describe_is_passed_on_when_all_fail(script: Script) -> None:
    script.open()
    assert described(script, UnknownModelError("no"), [info(1)]) == info(1)
    with pytest.raises(UnknownModelError, match="no"):
        described(script, UnknownModelError("no"), UnknownModelError("no"))


def test_a_question_to_a_process_that_ends_fails(script: Script) -> None:
    script.open(1)
    (child,) = script.children
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(script.pool.models)
        eventually(lambda: child.all(Ask))
        child.kill()
        with pytest.raises(NotReadyError):
            asking.result()


def test_a_malformed_reference_is_refused(script: Script) -> None:
    script.open()
    with pytest.raises(InvalidRequestError):
        submit(script, task_of(1, model="?"))


class Raising(Recorder):
    """A listener with a defect."""

    def image(self, image: GeneratedImage) -> None:
        raise RuntimeError("a defect")


def test_a_listener_that_raises_harms_nobody_else(script: Script) -> None:
    script.open(1)
    (child,) = script.children
    raising = Raising()
    script.pool.submit(task_of(2), raising)
    recorder = submit(script, task_of(1))
    bad, good = child.tasks(2)
    child.finish(bad, 0)
    assert isinstance(raising.wait().error, InternalError)
    eventually(lambda: child.all(Cancel) == [Cancel(bad.id)])
    child.finish(good, 0)
    assert recorder.wait().error is None


def test_a_closed_pool_refuses_and_its_processes_end(script: Script) -> None:
    script.open()
    children = script.children
    recorder = submit(script, task_of(3))
    children[0].tasks(1)
    script.pool.close()
    assert all(child.all(Close) for child in children)
    assert isinstance(recorder.wait().error, NotReadyError)
    for call in (script.pool.check, lambda: submit(script, task_of(1)), script.pool.models):
        with pytest.raises(NotReadyError, match="shutting down"):
            call()


def test_a_process_that_is_still_starting_is_not_waited_for(script: Script) -> None:
    script.open(1)
    (child,) = script.children
    child.kill()
    eventually(lambda: bool(script.children) and script.children[0] is not child)
    (starting,) = script.children
    script.pool.close()
    assert starting.killed
    assert starting.all(Close) == []


def test_a_deadline_comes_nearer_while_a_part_looks_for_room(script: Script) -> None:
    script.open()
    submit(script, task_of(3, deadline_seconds=5.0))
    first, second = script.children
    (task,) = first.tasks(1)
    first.fail(task, OverloadedError("full", retry_after_seconds=1.0))
    (again,) = second.tasks(1)
    assert task.deadline_seconds is not None
    assert again.deadline_seconds is not None
    assert again.deadline_seconds < task.deadline_seconds <= 5.0
    assert again.id == task.id
