import threading

import numpy as np
import pytest

from gmem_shared.errors import ConflictError, CorruptVersionError
from gmem_trainer.sampling.job import Job
from gmem_trainer.sampling.parts import Part, Parts

JOB = Job(
    model="m@sha256-0", num_images=10, seed=0, sampler="ab2", num_steps=8, batch_size=4
)  # fmt: skip


def part(number: int) -> Part:
    indices = JOB.indices(number)
    images = np.full((len(indices), 2, 2, 1), number, np.uint8)
    return Part(images, indices, indices * 10, indices % 3)


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path / "out.npz.parts", JOB)


def test_a_batch_comes_back_as_it_was_written(parts) -> None:
    parts.write(1, part(1))
    found = Parts(parts.folder, JOB).read(1)
    for name in ("images", "indices", "rows", "labels"):
        assert np.array_equal(getattr(found, name), getattr(part(1), name))


def test_finished_batches_are_counted_in_images(parts) -> None:
    parts.write(0, part(0))
    parts.write(2, part(2))
    assert parts.finished() == {0, 2}
    assert parts.finished_images() == 6


def test_a_batch_written_twice_is_there_once(parts) -> None:
    parts.write(0, part(0))
    parts.write(0, part(0))
    assert parts.finished() == {0}


def test_an_unfinished_file_is_no_batch(parts) -> None:
    (parts.folder / "abc.partial").write_bytes(b"half")
    assert parts.finished() == set()


def test_a_folder_of_another_job_is_refused_with_every_difference(parts) -> None:
    other = JOB.model_copy(update={"seed": 1, "num_steps": 4})
    with pytest.raises(ConflictError, match="seed 1 instead of 0; num_steps 4 instead of 8"):
        Parts(parts.folder, other)


def test_a_folder_of_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "job.json").write_text('{"schema_version": 99}')
    with pytest.raises(ConflictError, match="does not know"):
        Parts(tmp_path, JOB)


def test_processes_that_begin_at_once_agree_on_one_job(tmp_path) -> None:
    jobs = [JOB.model_copy(update={"seed": seed}) for seed in range(8)]
    refused: list[int] = []
    barrier = threading.Barrier(len(jobs))

    def begin(job: Job) -> None:
        barrier.wait()
        try:
            Parts(tmp_path, job)
        except ConflictError:
            refused.append(job.seed)

    threads = [threading.Thread(target=begin, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(jobs) - 1
    kept = Job.model_validate_json((tmp_path / "job.json").read_bytes())
    assert kept.seed not in refused
    assert list(tmp_path.glob("*.partial")) == []


def test_a_damaged_batch_is_named(parts) -> None:
    parts.write(0, part(0))
    path = parts.folder / "00000000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptVersionError, match=r"00000000\.safetensors.*delete it"):
        parts.read(0)


def test_a_batch_under_another_number_is_not_accepted(parts) -> None:
    parts.write(1, part(0))
    with pytest.raises(CorruptVersionError, match="expected images"):
        parts.read(1)


def test_a_file_without_the_members_of_a_batch_is_not_accepted(parts) -> None:
    from safetensors.numpy import save_file

    save_file({"images": part(0).images}, parts.folder / "00000000.safetensors")
    with pytest.raises(CorruptVersionError, match="does not open"):
        parts.read(0)


def test_only_one_process_is_alone(parts) -> None:
    entered = threading.Event()
    left = threading.Event()

    def wait_for_turn() -> None:
        with Parts(parts.folder, JOB).alone():
            assert left.is_set()
            entered.set()

    with parts.alone():
        other = threading.Thread(target=wait_for_turn)
        other.start()
        assert not entered.wait(0.05)
        left.set()
    other.join(timeout=60)
    assert entered.is_set()
