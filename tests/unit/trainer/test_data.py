import numpy as np
import pytest

from gmem_trainer.data import Dataset, digits


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits(0)


def test_the_parts_are_disjoint_and_make_up_the_whole(dataset) -> None:
    parts = [dataset.train, dataset.validation, dataset.test]
    ids = np.concatenate([part.source_ids for part in parts])
    assert sorted(ids) == list(range(1797))
    assert [len(part) for part in parts] == [1257, 180, 360]


def test_every_part_has_the_same_share_of_each_class(dataset) -> None:
    whole = np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels])) / 1617
    for part in (dataset.train, dataset.validation, dataset.test):
        assert np.bincount(part.labels) / len(part) == pytest.approx(whole, abs=0.01)


def test_pixels_fill_the_range_the_network_works_in(dataset) -> None:
    pixels = dataset.train.pixels
    assert pixels.shape[1:] == (1, 8, 8)
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (-1.0, 1.0)


def test_the_split_depends_on_the_seed_alone(dataset) -> None:
    assert np.array_equal(digits(0).test.source_ids, dataset.test.source_ids)
    assert not np.array_equal(digits(1).test.source_ids, dataset.test.source_ids)


def test_source_ids_lead_back_to_the_original_images(dataset) -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    part = dataset.validation
    assert np.array_equal(part.pixels[:, 0] * 8 + 8, original.images[part.source_ids])
    assert np.array_equal(part.labels, original.target[part.source_ids])


def test_find_returns_images_in_the_order_asked_for(dataset) -> None:
    wanted = dataset.train.source_ids[[5, 0, 900]]
    found = dataset.train.find(wanted)
    assert np.array_equal(found.source_ids, wanted)
    assert np.array_equal(found.pixels, dataset.train.pixels[[5, 0, 900]])


def test_classes_answer_to_name_and_digit(dataset) -> None:
    assert [info.name for info in dataset.classes][:3] == ["zero", "one", "two"]
    assert dataset.classes[7].aliases == ("7",)


def test_provenance_names_source_and_licence_of_each_training_image(dataset) -> None:
    table = dataset.provenance()
    assert table["source_id"].to_pylist() == dataset.train.source_ids.tolist()
    assert set(table["licence"].to_pylist()) == {"CC BY 4.0"}
    row = table.slice(3, 1).to_pylist()[0]
    assert row["uri"].endswith(f"#{dataset.train.source_ids[3]}")
    assert len(row["sha256"]) == 64


def test_a_sample_holds_no_more_than_the_limit_or_the_memory(dataset, monkeypatch) -> None:
    sample = dataset.sample(100, seed=0)
    assert [len(part) for part in (sample.train, sample.validation, sample.test)] == [100] * 3
    assert set(sample.test.source_ids) <= set(dataset.test.source_ids)
    assert np.array_equal(dataset.sample(100, seed=0).train.pixels, sample.train.pixels)
    assert len(dataset.sample(10_000, seed=0).train) == 1257
    monkeypatch.setattr("gmem_trainer.data.HELD_BYTES", 20 * 8 * 8 * 4)
    assert len(dataset.sample(100, seed=0).train) == 20


def test_the_fingerprint_of_images_changes_with_any_of_them(dataset) -> None:
    assert digits(0).train.fingerprint() == dataset.train.fingerprint()
    assert dataset.test.fingerprint() != dataset.train.fingerprint()
    changed = dataset.train.take(np.arange(len(dataset.train)))
    changed.pixels[3, 0, 2, 2] += 0.5
    assert changed.fingerprint() != dataset.train.fingerprint()
