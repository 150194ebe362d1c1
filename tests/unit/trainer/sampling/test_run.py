from contextlib import contextmanager
from itertools import chain

import numpy as np
import pytest

from gmem_shared.errors import ConflictError, NotReadyError, OutOfRangeError
from gmem_trainer.sampling.parts import Parts
from gmem_trainer.sampling.run import Share, assemble_only, parts_folder, run
from gmem_trainer.sampling.worker import Worker


@contextmanager
def watch(total, finished):
    yield lambda count: None


def images(path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive["arr_0"]


def test_shares_are_disjoint_and_complete() -> None:
    numbers = [list(Share(rank, 3).of(8)) for rank in range(3)]
    assert sorted(chain(*numbers)) == list(range(8))


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match="--world-size"):
        Share(2, 2)


@pytest.mark.slow
def test_processes_make_what_one_worker_makes(place, make_job, tmp_path) -> None:
    job = make_job()
    reports: list[tuple[int, int]] = []

    @contextmanager
    def record(total, finished):
        reports.append((finished, total))
        yield lambda count: reports.append((count, total))

    out = tmp_path / "out.npz"
    assert run(job, out, place, ["cpu", "cpu"], Share(), record)
    worker = Worker(place, job, "cpu")
    expected = np.concatenate([worker.make(number).images for number in range(3)])
    assert np.array_equal(images(out), expected.repeat(3, axis=-1))
    assert reports[0] == (0, 10)
    assert reports[-1] == (10, 10)
    before = out.stat()
    assert run(job, out, place, ["cpu"], Share(), watch)
    assert out.stat() == before


@pytest.mark.slow
def test_whoever_finishes_last_writes_the_output(place, make_job, tmp_path) -> None:
    job, out = make_job(), tmp_path / "out.npz"
    elsewhere, worker = Parts(parts_folder(out), job), Worker(place, job, "cpu")
    elsewhere.write(0, worker.make(0))
    assert not run(job, out, place, ["cpu"], Share(0, 3), watch)
    assert not out.exists()
    elsewhere.write(2, worker.make(2))
    assert run(job, out, place, ["cpu"], Share(1, 3), watch)
    assert len(images(out)) == 10
    assert not parts_folder(out).exists()


@pytest.mark.slow
def test_shares_together_write_the_bytes_that_one_machine_writes(place, make_job, tmp_path) -> None:
    job, alone, together = make_job(), tmp_path / "alone.npz", tmp_path / "together.npz"
    assert run(job, alone, place, ["cpu"], Share(), watch)
    done = [run(job, together, place, ["cpu"], Share(rank, 3), watch) for rank in (2, 0, 1)]
    assert done == [False, False, True]
    assert together.read_bytes() == alone.read_bytes()


def test_only_complete_jobs_are_assembled(place, make_job, tmp_path) -> None:
    job, out = make_job(), tmp_path / "out.npz"
    parts, worker = Parts(parts_folder(out), job), Worker(place, job, "cpu")
    parts.write(0, worker.make(0))
    with pytest.raises(NotReadyError, match=r"expected 10 images in .*, found 4"):
        assemble_only(job, out)
    for number in (1, 2):
        parts.write(number, worker.make(number))
    assemble_only(job, out)
    assemble_only(job, out)
    assert len(images(out)) == 10


def test_other_parameters_are_refused_before_anything_is_made(place, make_job, tmp_path) -> None:
    out = tmp_path / "out.npz"
    Parts(parts_folder(out), make_job())
    with pytest.raises(ConflictError, match="seed 1 instead of 0"):
        run(make_job(seed=1), out, place, ["cpu"], Share(), watch)


@pytest.mark.slow
def test_an_error_in_a_process_is_the_error_of_the_job(place, make_job, tmp_path) -> None:
    job = make_job().model_copy(update={"model": "gone@production"})
    with pytest.raises(Exception, match="gone"):
        run(job, tmp_path / "out.npz", place, ["cpu"], Share(), watch)
