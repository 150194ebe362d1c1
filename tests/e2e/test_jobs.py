"""A job of a thousand digits, by front ends with an engine each, one of which is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.redis import running_redis
from tests.support.replicas import replicas

pytestmark = [pytest.mark.slow, pytest.mark.redis]

REQUEST = {"class_label": "seven", "num_images": 1000, "seed": 42, "num_steps": 8}


def test_a_killed_front_end_costs_no_image_and_changes_none(
    digits_store: Path, tmp_path: Path
) -> None:
    own = {
        "GMEM_STORE__URL": str(digits_store),
        "GMEM_ENGINE__PROCESSES": "1",
        "GMEM_JOBS__CONCURRENCY": "1",
        "GMEM_JOBS__CLAIM_SECONDS": "2",
    }
    (tmp_path / "redis").mkdir()
    with (
        running_redis(tmp_path / "redis") as url,
        replicas(2, tmp_path, url, **own) as (killed, left),
    ):
        job_id = killed.submit(**REQUEST).json()["id"]
        left.wait_for_images(job_id, 256)
        assert killed.metric("gmem_generator_job_images_total") > 0
        killed.process.send_signal(signal.SIGKILL)
        job = left.ended(job_id, seconds=240)
        assert (job["status"], job["images"]) == ("succeeded", {"done": 1000, "total": 1000})
        images = left.result(job_id)
        assert len(images) == 1000
        assert images == left.answer(REQUEST)
