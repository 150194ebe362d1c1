from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from gmem_generator.jobs.record import Job
from gmem_generator.schemas import Version
from gmem_shared.errors import ConflictError, NewerRecordError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(images: int = 20, part_images: int = 8) -> Job:
    model = Version(name="digits", seq=1, digest="sha256-0")
    return Job(
        id="j", owner="o", images=images, part_images=part_images, model=model, bank=None,
        created=NOON,
    )  # fmt: skip


def test_the_parts_cover_every_image_once() -> None:
    covered = [image for part in range(job().parts) for image in job().images_of(part)]
    assert covered == list(range(20))


def test_it_is_complete_when_every_part_is_and_counts_the_last_one_right() -> None:
    almost = job().finish(0).finish(2)
    assert (almost.images_done, almost.complete) == (12, False)
    assert almost.finish(1).finish(1).complete
    assert almost.finish(1).images_done == 20


def test_every_part_is_offered_once_and_those_that_are_stored_never() -> None:
    offered, current = [], job(images=40).finish(1)
    while True:
        current, part = current.offer()
        if part is None:
            break
        offered.append(part)
    assert offered == [0, 2, 3, 4]


def test_the_time_left_is_estimated_from_the_pace_of_this_run() -> None:
    running = job(images=80).finish(0).begin(NOON)
    assert running.seconds_left(NOON) is None
    running = running.finish(1)
    assert running.seconds_left(NOON + timedelta(seconds=2)) == pytest.approx(2 * 64 / 8)


def test_it_is_resumed_from_what_is_stored_in_a_run_of_its_own() -> None:
    failed = job().begin(NOON).finish(0).end("failed", NOON, {"code": "internal"})
    resumed = failed.resume(frozenset({0, 2}))
    assert (resumed.status, resumed.run, resumed.images_done) == ("queued", 2, 12)
    assert (resumed.problem, resumed.ended, resumed.offer()[1]) == (None, None, 1)


@pytest.mark.parametrize("present", [job(), job().begin(NOON), job().end("succeeded", NOON)])
def test_only_a_job_that_stopped_is_resumed(present) -> None:
    with pytest.raises(ConflictError, match=present.status):
        present.resume(frozenset())


def test_it_survives_being_written_down() -> None:
    written = job().begin(NOON).finish(1).offer()[0]
    assert Job.read(written.model_dump_json()) == written


def test_what_a_newer_release_says_of_it_survives_a_change() -> None:
    newer = json.loads(job().model_dump_json()) | {"colour": "blue"}
    changed = Job.read(json.dumps(newer)).begin(NOON).finish(1)
    assert json.loads(changed.model_dump_json())["colour"] == "blue"


@pytest.mark.parametrize("change", [{"format": 2}, {"status": "paused"}])
def test_one_that_only_a_newer_release_understands_is_not_read(change) -> None:
    newer = json.loads(job().model_dump_json()) | change
    with pytest.raises(NewerRecordError, match="newer release"):
        Job.read(json.dumps(newer))
