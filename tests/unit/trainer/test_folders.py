import numpy as np
import pytest
from PIL import Image, ImageOps

from gmem_model.preprocessing import center_crop
from gmem_shared.errors import InvalidRequestError
from gmem_trainer.folders import image_folder, read_square, split
from tests.support.folders import small_folder, write_digits, write_photos


def test_sub_folders_are_classes_in_sorted_order(tmp_path) -> None:
    dataset = small_folder(tmp_path / "photos")
    assert [(info.id, info.name) for info in dataset.classes] == [(0, "cats"), (1, "dogs")]
    for part in (dataset.train, dataset.validation, dataset.test):
        assert all(path.startswith(("cats", "dogs")[label]) for path, label in zip(
            part.paths, part.labels, strict=True))  # fmt: skip


def test_the_parts_are_disjoint_and_share_every_class_alike(tmp_path) -> None:
    dataset = small_folder(tmp_path / "photos")
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [len(part) for part in parts] == [42, 6, 12]
    assert sorted(path for part in parts for path in part.paths) == sorted(
        path.relative_to(tmp_path / "photos").as_posix() for path in tmp_path.glob("photos/*/*")
    )
    assert [np.bincount(part.labels).tolist() for part in parts] == [[21, 21], [3, 3], [6, 6]]


def test_the_seed_decides_the_split() -> None:
    labels = np.repeat(np.arange(3, dtype=np.int32), 40)
    assert all(
        np.array_equal(a, b) for a, b in zip(split(labels, 1), split(labels, 1), strict=True)
    )
    assert not np.array_equal(split(labels, 1)[2], split(labels, 2)[2])


def test_images_of_any_format_and_size_become_squares_in_range(tmp_path) -> None:
    dataset = small_folder(tmp_path / "photos")
    images = dataset.train.read(np.arange(len(dataset.train)))
    assert images.pixels.shape == (42, 3, 16, 16)
    assert images.pixels.dtype == np.float32
    assert images.pixels.min() >= -1
    assert images.pixels.max() <= 1
    dark, bright = (images.pixels[images.labels == label].mean() for label in (0, 1))
    assert bright - dark > 0.8


def test_an_image_is_cropped_as_the_published_data_are(tmp_path) -> None:
    path = tmp_path / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    expected = center_crop(Image.fromarray(pixels), 16).transpose(2, 0, 1) / 127.5 - 1
    assert np.allclose(read_square(path, 16, 3), expected, atol=1e-6)


def test_a_photograph_is_turned_upright(tmp_path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # taken with the camera turned
    image.save(tmp_path / "turned.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")))
    assert np.allclose(read_square(tmp_path / "turned.png", 16, 3)[0], expected[..., 0] / 127.5 - 1)
    assert not np.array_equal(expected, pixels)


def test_a_folder_of_grey_images_stays_grey(tmp_path) -> None:
    dataset = image_folder(write_digits(tmp_path / "grey", 10), side=8, seed=0)
    assert dataset.train.channels == 1
    assert dataset.train.read(np.arange(3)).pixels.shape == (3, 1, 8, 8)


def test_one_coloured_image_makes_all_of_them_coloured(tmp_path) -> None:
    write_digits(tmp_path / "mixed", 10)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "mixed" / "one" / "red.png")
    assert image_folder(tmp_path / "mixed", side=8, seed=0).train.channels == 3


def test_a_flat_folder_is_one_class_without_a_name(tmp_path) -> None:
    write_photos(tmp_path, 60, names=("flat",))
    dataset = image_folder(tmp_path / "flat", side=8, seed=0)
    assert dataset.classes == ()
    assert set(dataset.train.labels) == {-1}


def test_hidden_files_and_other_kinds_of_files_are_no_images(tmp_path) -> None:
    root = write_photos(tmp_path / "photos", 30)
    (root / "notes.txt").write_text("about my cats")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "a.png").write_bytes(b"")
    assert len(image_folder(root, side=8, seed=0).classes) == 2


def test_provenance_names_each_file_and_its_digest(tmp_path) -> None:
    import hashlib

    dataset = small_folder(tmp_path / "photos")
    row = dataset.provenance(dataset.train.source_ids[[3]]).to_pylist()[0]
    path = tmp_path / "photos" / dataset.train.paths[3]
    assert row["uri"] == path.as_uri()
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_fingerprint_changes_with_a_file_and_with_the_way_of_reading(tmp_path) -> None:
    part = small_folder(tmp_path / "photos").train
    root, first = tmp_path / "photos", part.fingerprint()
    assert image_folder(root, side=16, seed=0).train.fingerprint() == first
    assert image_folder(root, side=8, seed=0).train.fingerprint() != first
    path = root / part.paths[0]
    path.write_bytes(path.read_bytes() + b" ")
    assert image_folder(root, side=16, seed=0).train.fingerprint() != first


def test_a_file_that_is_no_image_is_named_before_anything_is_done(tmp_path) -> None:
    root = write_photos(tmp_path / "photos", 30)
    (root / "cats" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(InvalidRequestError, match=r"broken\.png.*--skip-unreadable"):
        image_folder(root, side=8, seed=0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: Image.new("I;16", (64, 64)).save(path),
    ],
    ids=["cut off", "16 bits"],
)
def test_a_file_that_cannot_be_decoded_is_named_or_left_out(tmp_path, spoil) -> None:
    root = write_photos(tmp_path / "photos", 30)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(root / "cats" / "000.png")
    spoil(root / "cats" / "000.png")
    strict = image_folder(root, side=8, seed=0)
    parts = (strict.train, strict.validation, strict.test)
    part = next(part for part in parts if "cats/000.png" in part.paths)
    with pytest.raises(InvalidRequestError, match=r"cats/000\.png"):
        part.read(np.arange(len(part)))
    tolerant = image_folder(root, side=8, seed=0, skip_unreadable=True)
    parts = (tolerant.train, tolerant.validation, tolerant.test)
    part = next(part for part in parts if "cats/000.png" in part.paths)
    images = part.read(np.arange(len(part)))
    assert len(images) == len(part) - 1
    missing = set(part.source_ids) - set(images.source_ids)
    assert [part.paths[list(part.source_ids).index(i)] for i in missing] == ["cats/000.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "absent", "expected a folder"),
        (lambda root: root, "expected images"),
        (lambda root: write_photos(root / "few", 3), "about 50"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_refused(tmp_path, make, message) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        image_folder(make(tmp_path), side=8, seed=0)


def test_images_beside_class_folders_are_refused(tmp_path) -> None:
    root = write_photos(tmp_path / "photos", 30)
    Image.new("RGB", (8, 8)).save(root / "loose.png")
    with pytest.raises(InvalidRequestError, match=r"loose\.png"):
        image_folder(root, side=8, seed=0)
