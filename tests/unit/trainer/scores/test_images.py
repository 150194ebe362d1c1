import zipfile

import numpy as np
import pytest
from PIL import Image

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.images import open_images
from tests.support.canary import Canary


@pytest.mark.parametrize("size", [1, 10, 23, 100])
def test_an_archive_is_read_in_batches(npz, pictures, size) -> None:
    images = open_images(npz(pictures))
    assert len(images) == 23
    batches = list(images.batches(size))
    assert all(len(batch) == size for batch in batches[:-1])
    assert np.array_equal(np.concatenate(batches), pictures)


def test_an_archive_can_be_read_again(npz, pictures) -> None:
    images = open_images(npz(pictures))
    for _ in range(2):
        assert sum(len(batch) for batch in images.batches(7)) == 23


def test_compressed_archives_are_read_too(tmp_path, pictures) -> None:
    np.savez_compressed(tmp_path / "images.npz", pictures)
    images = open_images(tmp_path / "images.npz")
    assert np.array_equal(np.concatenate(list(images.batches(10))), pictures)


def test_a_folder_is_read_in_the_order_of_its_names(folder, pictures) -> None:
    (folder / "images.csv").write_text("not a picture")
    images = open_images(folder)
    assert len(images) == 23
    assert np.array_equal(np.concatenate(list(images.batches(10))), pictures)


def test_class_folders_are_read_one_after_the_other(tmp_path) -> None:
    for level, name in ((1, "b/0.png"), (2, "a/1.png"), (3, "a/0.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (level, 0, 0)).save(tmp_path / name)
    (batch,) = open_images(tmp_path).batches(4)
    assert batch[:, 0, 0, 0].tolist() == [3, 2, 1]


def test_grey_pictures_become_colour_pictures(tmp_path) -> None:
    grey = np.arange(30, dtype=np.uint8).reshape(6, 5)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (batch,) = open_images(tmp_path).batches(4)
    assert np.array_equal(batch[0], np.repeat(grey[..., None], 3, axis=-1))


def test_pictures_of_several_sizes_are_refused(folder) -> None:
    Image.new("RGB", (7, 6)).save(folder / "000099.png")
    with pytest.raises(InvalidRequestError, match=r"expected pictures of one size, 5x6.*7x6"):
        list(open_images(folder).batches(10))


def test_files_that_only_look_like_pictures_are_refused(folder) -> None:
    (folder / "000001.png").write_text("no picture")
    with pytest.raises(InvalidRequestError, match=r"000001\.png"):
        list(open_images(folder).batches(10))


def test_an_empty_folder_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="found none"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 5, 3), np.float32),
        np.zeros((4, 6, 5, 1), np.uint8),
        np.zeros((4, 6, 5), np.uint8),
        np.asfortranarray(np.zeros((4, 6, 5, 3), np.uint8)),
    ],
    ids=["floats", "one channel", "three dimensions", "Fortran order"],
)
def test_other_arrays_are_refused(npz, array) -> None:
    with pytest.raises(InvalidRequestError, match="expected 'arr_0'"):
        open_images(npz(array))


def test_other_files_are_refused(tmp_path, npz) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    for path in (tmp_path / "text.npz", tmp_path / "absent.npz", npz(name="b.npz", mu=np.zeros(3))):
        with pytest.raises(InvalidRequestError, match="expected an npz file"):
            open_images(path)


def test_nothing_in_an_archive_is_executed(tmp_path, npz) -> None:
    canary = Canary(tmp_path / "executed")
    hostile = npz(np.array([canary], dtype=object))
    with pytest.raises(InvalidRequestError):
        open_images(hostile)
    assert not (tmp_path / "executed").exists()


def test_a_cut_archive_is_refused(tmp_path, pictures) -> None:
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        np.save(tmp_path / "whole.npy", pictures)
        archive.writestr("arr_0.npy", (tmp_path / "whole.npy").read_bytes()[:-10])
    with pytest.raises(InvalidRequestError):
        list(open_images(tmp_path / "cut.npz").batches(23))
