import csv
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from gmem_shared.errors import ConflictError, CorruptVersionError
from gmem_trainer.sampling.assembly import assemble, is_assembled
from gmem_trainer.sampling.job import Job
from gmem_trainer.sampling.parts import Part, Parts

JOB = Job(
    model="m@sha256-0", num_images=10, seed=0, sampler="ab2", num_steps=8, batch_size=4
)  # fmt: skip


def complete(folder, channels: int = 1) -> Parts:
    parts = Parts(folder, JOB)
    for number in range(JOB.num_parts):
        indices = JOB.indices(number)
        images = np.arange(len(indices) * 6 * channels, dtype=np.uint8) + number
        images = images.reshape(-1, 2, 3, channels)
        parts.write(number, Part(images, indices, indices * 10, indices % 3))
    return parts


def test_the_archive_is_what_the_evaluator_of_adm_reads(tmp_path) -> None:
    parts = complete(tmp_path / "parts")
    expected = np.concatenate([parts.read(n).images for n in range(3)]).repeat(3, axis=-1)
    assemble(parts, tmp_path / "out.npz")
    with zipfile.ZipFile(tmp_path / "out.npz") as archive, archive.open("arr_0.npy") as file:
        assert archive.getinfo("arr_0.npy").compress_type == zipfile.ZIP_STORED
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        assert (shape, fortran, dtype) == ((10, 2, 3, 3), False, np.uint8)
        assert file.read() == expected.tobytes()


def test_the_archive_says_where_each_image_comes_from(tmp_path) -> None:
    assemble(complete(tmp_path / "parts", channels=3), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive["indices"].tolist() == list(range(10))
        assert archive["rows"].tolist() == list(range(0, 100, 10))
        assert archive["arr_1"].tolist() == [i % 3 for i in range(10)]
        assert Job.model_validate_json(archive["job.json"]) == JOB


def test_equal_jobs_give_equal_files(tmp_path) -> None:
    for name in ("a", "b"):
        assemble(complete(tmp_path / f"{name}.parts"), tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_folder_has_one_numbered_picture_per_image(tmp_path, channels, mode) -> None:
    parts = complete(tmp_path / "parts", channels)
    expected = np.concatenate([parts.read(n).images for n in range(3)])
    folder = tmp_path / "images"
    assemble(parts, folder)
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [f"{i:06d}.png" for i in range(10)]
    for name, pixels in zip(names, expected, strict=True):
        with Image.open(folder / name) as picture:
            assert picture.mode == mode
            assert np.array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
    with (folder / "images.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[7] == {"index": "7", "row": "70", "label": "1"}


@pytest.mark.parametrize("output", ["out.npz", "images"])
def test_batches_are_deleted_once_the_output_is_there(tmp_path, output) -> None:
    parts = complete(tmp_path / "parts")
    assert not is_assembled(tmp_path / output, JOB)
    assemble(parts, tmp_path / output)
    assert is_assembled(tmp_path / output, JOB)
    assert sorted(path.name for path in tmp_path.iterdir()) == [output]


def test_whoever_comes_late_finds_the_work_done(tmp_path) -> None:
    parts = complete(tmp_path / "parts")
    assemble(parts, tmp_path / "out.npz")
    before = (tmp_path / "out.npz").stat()
    assemble(parts, tmp_path / "out.npz")
    assert (tmp_path / "out.npz").stat() == before
    assert not parts.folder.exists()


@pytest.mark.parametrize("output", ["out.npz", "images"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, output) -> None:
    job = JOB.model_copy(update={"num_images": 160})
    parts = Parts(tmp_path / "parts", job)
    images = np.zeros((4, 64, 64, 3), np.uint8)
    for number in range(job.num_parts):
        indices = job.indices(number)
        parts.write(number, Part(images, indices, indices, indices))
    tracemalloc.start()
    assemble(parts, tmp_path / output)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * images.nbytes < job.num_parts * images.nbytes / 3


@pytest.mark.parametrize("output", ["out.npz", "images"])
def test_what_a_killed_assembly_left_is_overwritten(tmp_path, output) -> None:
    left = tmp_path / f"{output}.partial"
    if output == "images":
        left.mkdir()
        (left / "000099.png").touch()
    else:
        left.write_bytes(b"x" * 100_000)
    assemble(complete(tmp_path / "parts"), tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == [output]
    assert not (tmp_path / output / "000099.png").exists()


def test_a_damaged_batch_leaves_no_output_behind(tmp_path) -> None:
    parts = complete(tmp_path / "parts")
    (parts.folder / "00000001.safetensors").write_bytes(b"")
    with pytest.raises(CorruptVersionError):
        assemble(parts, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    assert parts.folder.exists()


def test_the_output_of_another_job_is_never_overwritten(tmp_path) -> None:
    assemble(complete(tmp_path / "parts"), tmp_path / "out.npz")
    with pytest.raises(ConflictError, match="seed 1 instead of 0"):
        is_assembled(tmp_path / "out.npz", JOB.model_copy(update={"seed": 1}))


def test_what_this_command_did_not_make_is_never_overwritten(tmp_path) -> None:
    np.savez(tmp_path / "foreign.npz", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious.png").touch()
    for name in ("foreign.npz", "text.npz", "folder"):
        with pytest.raises(ConflictError, match="no output of this command"):
            is_assembled(tmp_path / name, JOB)


def test_an_empty_folder_may_become_the_output(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    assemble(complete(tmp_path / "parts"), tmp_path / "images")
    assert (tmp_path / "images" / "000009.png").exists()
