import numpy as np
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from gmem_shared.errors import ConflictError, InvalidRequestError, NotReadyError, OutOfRangeError
from gmem_trainer.sampling.cli import app
from gmem_trainer.sampling.parts import Parts
from gmem_trainer.sampling.run import parts_folder
from gmem_trainer.sampling.worker import Worker


@pytest.fixture
def sample(place, tmp_path):
    """Run ``gmem sample`` for the job of `make_job`; an error of ours is raised."""

    def run(*options: str, **environment: str) -> Result:
        command = [
            "--model", "tiny", "--num-images", "10", "--batch-size", "4", "--steps", "2",
            "--store", place.url, "--out", str(tmp_path / "out.npz"), *options,
        ]  # fmt: skip
        environment = {"GMEM_STORE__CACHE_DIR": str(place.cache_dir)} | environment
        with capture_logs():
            result = CliRunner().invoke(app, command, env=environment)
        if result.exception is not None:
            raise result.exception
        return result

    return run


@pytest.fixture
def parts(place, make_job, tmp_path) -> Parts:
    """The finished job, not assembled."""
    job = make_job()
    parts, worker = Parts(parts_folder(tmp_path / "out.npz"), job), Worker(place, job, "cpu")
    for number in range(job.num_parts):
        parts.write(number, worker.make(number))
    return parts


def test_finished_images_are_assembled_and_announced(sample, parts, tmp_path) -> None:
    assert "10 images of tiny@sha256-" in sample("--assemble").stdout
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["arr_0"].shape == (10, 8, 8, 3)


def test_a_rerun_of_a_finished_job_is_done_at_once(sample, parts) -> None:
    sample("--assemble")
    assert "10 images" in sample().stdout


def test_processes_are_as_many_as_the_cores_that_a_container_may_use(
    sample, parts, monkeypatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def choose(*question: object) -> list[str]:
        asked.append(question)
        return ["cpu"]

    monkeypatch.setattr("gmem_model.engine.cores.usable_cores", lambda: 3)
    monkeypatch.setattr("gmem_trainer.sampling.devices.choose_devices", choose)
    sample()
    assert asked == [("auto", None, None, 3)]


def test_a_share_with_nothing_left_to_do_finishes_the_job(sample, parts, tmp_path) -> None:
    sample(RANK="3", WORLD_SIZE="8")
    assert (tmp_path / "out.npz").exists()


def test_a_share_that_others_still_work_on_says_so(sample, parts, tmp_path) -> None:
    (parts.folder / "00000000.safetensors").unlink()
    result = sample(JOB_COMPLETION_INDEX="1", WORLD_SIZE="2")
    assert "share 1 of 2 is done" in result.stdout
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--seed", "1"), ConflictError, "seed 1 instead of 0"),
        (("--steps", "3"), ConflictError, "num_steps 3 instead of 2"),
        (("--rank", "2", "--world-size", "2"), OutOfRangeError, "rank of 0 … 1"),
        (("--device", "tpu"), InvalidRequestError, "'tpu'"),
        (("--label", "1", "--snippets", "by-noise"), InvalidRequestError, "by-noise"),
    ],
)
def test_what_does_not_fit_is_refused(sample, parts, options, error, message) -> None:
    with pytest.raises(error, match=message):
        sample(*options)


def test_missing_images_are_counted(sample, parts) -> None:
    (parts.folder / "00000000.safetensors").unlink()
    with pytest.raises(NotReadyError, match="found 6"):
        sample("--assemble")
